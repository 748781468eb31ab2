"""``report.html``: one self-contained page a run, drawn from the run folder's files alone.

No network, no script; pictures are inline SVG in the page's own colours, light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from understudy.errors import MissingExtraError
from understudy.scripts._report_choice import pictures_of
from understudy.scripts._report_pictures import Picture
from understudy.scripts._report_tables import cards, machine, reproduce, returns_table, section, settings, text
from understudy.scripts._run_folder import read_json, read_metrics
from understudy.scripts._summary import Summary, number, summarise_all

_TITLES = {
    "train bc": "Behavioural cloning",
    "train dagger": "DAgger",
    "pretrain": "Pretraining",
    "train rl": "Reinforcement learning",
    "demo": "Behavioural cloning",
}


def write_report(folder: Path) -> Path:
    """Draw ``report.html`` from ``config.json``, ``metrics.jsonl`` and ``results.json`` and return its path."""
    results = read_json(folder / "results.json") if (folder / "results.json").exists() else {}
    page = build_report(read_json(folder / "config.json"), read_metrics(folder / "metrics.jsonl"), results)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def build_report(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """The page as text; every string of the inputs is escaped."""
    rows = summarise_all(results.get("returns", {}))
    env_id = str(config["options"].get("env_id") or config["options"].get("environment", {}).get("env_id", ""))
    title = f"{_TITLES.get(config['verb'], config['verb'])} · {env_id}"
    try:
        drawn = pictures_of(config, metrics, results, rows)
        missing = ""
    except MissingExtraError as error:
        drawn, missing = [], section("Pictures", f'<p class="caption">Not drawn: {text(error)}</p>')
    wide = "".join(_picture(picture) for picture in drawn if picture.wide)
    narrow = "".join(_picture(picture) for picture in drawn if not picture.wide)
    body = "".join(
        [
            _header(config, title, rows),
            cards(config, results, rows),
            wide,
            missing,
            returns_table(rows, results.get("notes", ())),
            f'<div class="pair">{narrow}{reproduce(config)}</div>' if narrow else reproduce(config),
            f'<div class="pair">{settings(config)}{machine(config)}</div>',
        ]
    )
    style = resources.files("understudy.scripts").joinpath("_report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}"
        f"<footer>Written by understudy {text(config['versions'].get('understudy', ''))}. "
        "Intervals cover 95 %, by bootstrap over episodes; IQM is the mean of the middle half.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def verdict(rows: Sequence[Summary]) -> str:
    """The result in one sentence, compared with nobody but whoever demonstrated, and chance."""
    by_name = {row.name: row for row in rows}
    clone = by_name.get("clone")
    if clone is None:
        return f"The policy earns {number(rows[-1].iqm.point)} an episode." if rows else ""
    earned = number(clone.iqm.point)
    teacher, whose = by_name.get("expert"), "its expert"
    if teacher is None:
        teacher, whose = by_name.get("demonstrations"), "its demonstrations"
    if teacher is None:
        sentence = f"The clone earns {earned} an episode"
    elif clone.iqm.high < teacher.iqm.low:
        sentence = f"The clone earns {earned}, less than {whose} ({number(teacher.iqm.point)})"
    elif clone.iqm.low > teacher.iqm.high:
        sentence = f"The clone earns {earned}, more than {whose} ({number(teacher.iqm.point)})"
    elif earned == number(teacher.iqm.point):
        sentence = f"The clone earns {earned}, as much as {whose}"
    else:
        sentence = f"The clone earns {earned}, {whose} {number(teacher.iqm.point)}, and the intervals overlap"
    if "random" in by_name:
        sentence += f". Random actions earn {number(by_name['random'].iqm.point)}"
    return sentence + "."


def _header(config: Mapping[str, Any], title: str, rows: Sequence[Summary]) -> str:
    name, _, env_id = title.partition(" · ")
    status = config["status"]
    note = f' · <span class="status">{text(status)}</span>' if status != "finished" else ""
    return (
        f'<header><p class="kicker">{text(name)} · {text(config["started"][:16].replace("T", " "))}{note}</p>'
        f'<h1>{text(env_id)}</h1><p class="verdict">{text(verdict(rows))}</p></header>\n'
    )


def _picture(picture: Picture) -> str:
    drawn = f'<div class="scroll">{picture.svg}</div>'
    if picture.narrow_svg:
        drawn = f'<div class="on-wide">{picture.svg}</div><div class="on-narrow">{picture.narrow_svg}</div>'
    return section(picture.title, f'<p class="caption">{text(picture.caption)}</p>{drawn}')
