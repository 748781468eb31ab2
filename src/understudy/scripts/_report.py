"""``report.html``: one self-contained page a run, drawn from the run folder's files alone.

No network, no script; pictures are inline SVG in the page's own colours, light and dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from understudy.errors import MissingExtraError
from understudy.scripts import _report_pictures as pictures
from understudy.scripts._report_pictures import Picture
from understudy.scripts._run_folder import read_json, read_metrics
from understudy.scripts._summary import Summary, interval_text, number, summarise_all

_TITLES = {"train bc": "Behavioural cloning", "train rl": "Reinforcement learning", "demo": "Behavioural cloning"}
_PANELS: dict[str, Sequence[tuple[str, Sequence[str]]]] = {
    "train bc": (
        ("Loss", ("bc/loss",)),
        ("Negative log-likelihood", ("bc/neglogp", "bc/validation_neglogp")),
        ("Probability of the expert’s action", ("bc/prob_true_act",)),
    ),
    "train rl": (
        ("Mean return while training", ("rollout/ep_rew_mean",)),
        ("Episode length", ("rollout/ep_len_mean",)),
    ),
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
        drawn = _pictures(config, metrics, results, rows)
        missing = ""
    except MissingExtraError as error:
        drawn, missing = [], _section("Pictures", f'<p class="caption">Not drawn: {_text(error)}</p>')
    wide = "".join(_picture(picture) for picture in drawn if picture.wide)
    narrow = "".join(_picture(picture) for picture in drawn if not picture.wide)
    body = "".join(
        [
            _header(config, title, rows),
            _cards(config, results, rows),
            wide,
            missing,
            _returns_table(rows),
            f'<div class="pair">{narrow}{_reproduce(config)}</div>' if narrow else _reproduce(config),
            f'<div class="pair">{_settings(config)}{_machine(config)}</div>',
        ]
    )
    style = resources.files("understudy.scripts").joinpath("_report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}"
        f"<footer>Written by understudy {_text(config['versions'].get('understudy', ''))}. "
        "Intervals cover 95 %, by bootstrap over episodes; IQM is the mean of the middle half.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def verdict(rows: Sequence[Summary]) -> str:
    """The result in one sentence."""
    by_name = {row.name: row for row in rows}
    clone = by_name.get("clone")
    expert = by_name.get("expert") or by_name.get("demonstrations")
    if clone is None:
        return f"The policy earns {number(rows[-1].iqm.point)} an episode." if rows else ""
    if expert is None:
        sentence = f"The clone earns {number(clone.iqm.point)} an episode"
    elif clone.iqm.high < expert.iqm.low:
        sentence = f"The clone earns {number(clone.iqm.point)}, less than its expert’s {number(expert.iqm.point)}"
    elif clone.iqm.low > expert.iqm.high:
        sentence = f"The clone earns {number(clone.iqm.point)}, more than its expert’s {number(expert.iqm.point)}"
    elif number(clone.iqm.point) == number(expert.iqm.point):
        sentence = f"The clone earns {number(clone.iqm.point)}, as much as its expert"
    else:
        sentence = (
            f"The clone earns {number(clone.iqm.point)}; its expert earns {number(expert.iqm.point)}, "
            "and the intervals overlap"
        )
    if "random" in by_name:
        sentence += f". Random actions earn {number(by_name['random'].iqm.point)}"
    return sentence + "."


def _pictures(
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    rows: Sequence[Summary],
) -> list[Picture]:
    drawn = []
    if rows:
        drawn.append(
            Picture(
                "Returns",
                "One dot an episode. The ring is the interquartile mean, the bar its 95\u00a0% interval.",
                pictures.return_strips(
                    {row.name: results["returns"][row.name]["returns"] for row in rows},
                    {row.name: (row.iqm.point, row.iqm.low, row.iqm.high) for row in rows},
                ),
            )
        )
    verb = "train bc" if config["verb"] == "demo" else config["verb"]
    curves = pictures.learning_curves(metrics, _PANELS.get(verb, ()))
    if curves:
        unit = "a step is a minibatch update" if verb == "train bc" else "a step is a step of the environment"
        drawn.append(Picture("Learning", f"What was logged while training; {unit}.", curves))
    error = results.get("action_error")
    if error:
        caption = (
            f"How far the clone’s action is from the recorded one at each time step, over {error['episodes']} "
            f"{error['source']}; the band is a 95\u00a0% interval over episodes. It is measured on the expert’s "
            "observations: small here with low returns means that the clone drifts off the demonstrations."
        )
        drawn.append(Picture("Action error by time step", caption, pictures.error_by_step(error, error["unit"])))
    actions = results.get("actions")
    if actions and actions["kind"] == "confusion":
        caption = "Rows: what the expert did; columns: what the clone does at the same observation."
        svg = pictures.confusion(actions["labels"], actions["counts"])
        drawn.append(Picture("Actions", caption, svg, wide=False))
    elif actions:
        caption = f"{len(actions['recorded'])} actions at the expert’s observations; on the dashed line both agree."
        svg = pictures.scatter(actions["recorded"], actions["predicted"])
        drawn.append(Picture("Actions", caption, svg, wide=len(actions["recorded"][0]) > 1))
    return drawn


def _header(config: Mapping[str, Any], title: str, rows: Sequence[Summary]) -> str:
    name, _, env_id = title.partition(" · ")
    status = config["status"]
    note = f' · <span class="status">{_text(status)}</span>' if status != "finished" else ""
    return (
        f'<header><p class="kicker">{_text(name)} · {_text(config["started"][:16].replace("T", " "))}{note}</p>'
        f'<h1>{_text(env_id)}</h1><p class="verdict">{_text(verdict(rows))}</p></header>\n'
    )


def _cards(config: Mapping[str, Any], results: Mapping[str, Any], rows: Sequence[Summary]) -> str:
    order = {"clone": 0, "policy": 0, "expert": 1, "demonstrations": 2, "random": 3}
    cards = [
        _card(row.name.capitalize(), number(row.iqm.point), f"95 %: {interval_text(row.iqm)}", row.name)
        for row in sorted(rows, key=lambda row: order.get(row.name, 9))
    ]
    error = results.get("action_error")
    if error and "share of actions" in error["unit"]:
        agreement = 100 * (1 - error["overall"])
        cards.append(_card("Agreement with expert", f"{agreement:.1f} %", f"of actions, {error['source']}"))
    data = config.get("data")
    if data:
        count = f"{data['transitions']:,}".replace(",", "\u202f")
        cards.append(_card("Demonstrations", str(data["episodes"]), f"{count} actions"))
    if results.get("training_seconds") is not None:
        cards.append(_card("Training", _duration(results["training_seconds"]), results.get("training_note", "")))
    return f'<div class="cards">{"".join(cards)}</div>\n' if cards else ""


def _card(label: str, value: str, note: str, tone: str = "") -> str:
    return (
        f'<div class="card {_text(tone)}"><div class="label">{_text(label)}</div>'
        f'<div class="value">{_text(value)}</div><div class="note">{_text(note)}</div></div>'
    )


def _picture(picture: Picture) -> str:
    return _section(picture.title, f'<p class="caption">{_text(picture.caption)}</p>{picture.svg}')


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>\n"


def _returns_table(rows: Sequence[Summary]) -> str:
    if not rows:
        return ""
    heads = ("IQM", "95 % interval", "mean", "std", "lowest", "highest", "mean steps", "episodes")
    lines = [
        "<tr><th>policy</th>" + "".join(f'<th class="number">{head}</th>' for head in heads) + "</tr>",
    ]
    for row in rows:
        cells = (
            number(row.iqm.point),
            interval_text(row.iqm),
            number(row.mean),
            number(row.std),
            number(row.low),
            number(row.high),
            number(row.mean_length),
            str(row.episodes),
        )
        lines.append(
            f'<tr><td class="{_text(row.name)}"><span class="dot"></span>{_text(row.name)}</td>'
            + "".join(f'<td class="number">{_text(cell)}</td>' for cell in cells)
            + "</tr>"
        )
    return _section("Returns in numbers", f"<table>{''.join(lines)}</table>")


def _reproduce(config: Mapping[str, Any]) -> str:
    git = config.get("git")
    facts: dict[str, Any] = {"seed": config["seed"]}
    if config.get("data"):
        facts["data"] = "SHA-256 " + config["data"]["sha256"]
        facts["data from"] = config["data"]["source"]
    if config.get("policy_sha256"):
        facts["policy"] = "SHA-256 " + config["policy_sha256"]
    if git:
        facts["git commit"] = git["commit"] + (" with changes" if git["changed"] else "")
    facts["took"] = _duration(config["wall_clock_seconds"])
    return _section("Run it again", f"<pre>{_text(config['command'])}</pre>{_facts(facts)}")


def _machine(config: Mapping[str, Any]) -> str:
    return _section("Versions and machine", _facts({**config["versions"], **dict(_flat(config["hardware"]))}))


def _settings(config: Mapping[str, Any]) -> str:
    options = {**config["options"], **config.get("recipe", {})}  # a recipe says what its preset filled in
    return _section("Settings", _facts(dict(_flat(options))))


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat.extend(_flat(value, f"{name} · "))
        else:
            flat.append((prefix + name.replace("_", " "), value))
    return flat


def _facts(facts: Mapping[str, Any]) -> str:
    rows = (
        f'<tr><td class="key">{_text(name)}</td><td class="value">{_text(_value(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _value(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _text(value: Any) -> str:
    return html.escape(str(value))
