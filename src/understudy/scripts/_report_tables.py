"""The report's cards and tables as markup."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.scripts._summary import Summary, few_episodes, interval_text, number


def cards(config: Mapping[str, Any], results: Mapping[str, Any], rows: Sequence[Summary]) -> str:
    """The figures that come first: returns, agreement, size of the data, time."""
    order = {"clone": 0, "policy": 0, "expert": 1, "demonstrations": 1, "random": 3}
    shown = [
        _card(row.name.capitalize(), number(row.iqm.point), f"IQM of returns; 95 %: {interval_text(row.iqm)}", row.name)
        for row in sorted(rows, key=lambda row: order.get(row.name, 2))
    ]
    error = results.get("action_error")
    if error and "share of actions" in error["unit"]:
        agreement = 100 * (1 - error["overall"])
        label = "Agreement with expert" if error["against"] == "expert" else "Agreement with the recording"
        shown.append(_card(label, f"{agreement:.1f} %", f"of actions, {error['measured_on']}"))
    data = config.get("data")
    if data:
        count = f"{data['transitions']:,}".replace(",", "\u202f")
        episodes = "episode" if data["episodes"] == 1 else "episodes"
        shown.append(_card(f"Demonstrated {episodes}", str(data["episodes"]), f"{count} actions"))
    if results.get("training_seconds") is not None:
        shown.append(_card("Training", _duration(results["training_seconds"]), results.get("training_note", "")))
    return f'<div class="cards">{"".join(shown)}</div>\n' if shown else ""


def _card(label: str, value: str, note: str, tone: str = "") -> str:
    return (
        f'<div class="card {_tone(tone)}"><div class="label">{text(label)}</div>'
        f'<div class="value">{text(value)}</div><div class="note">{text(note)}</div></div>'
    )


def section(title: str, content: str) -> str:
    """A card over the width of the page; ``content`` is markup."""
    return f"<section><h2>{text(title)}</h2>{content}</section>\n"


def returns_table(rows: Sequence[Summary], notes: Sequence[str]) -> str:
    """The table under the pictures, with what is to be said about its rows."""
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
            f'<tr><td class="{_tone(row.name)}"><span class="dot"></span>{text(row.name)}</td>'
            + "".join(f'<td class="number">{text(cell)}</td>' for cell in cells)
            + "</tr>"
        )
    said = "".join(f'<p class="caption">{text(note)}</p>' for note in (*notes, *few_episodes(rows)))
    table = f'<div class="scroll"><table class="figures">{"".join(lines)}</table></div>'
    return section("Returns in numbers", said + table)


def reproduce(config: Mapping[str, Any]) -> str:
    """The command, and what shows that a second run is the same."""
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
    return section("Run it again", f"<pre>{text(config['command'])}</pre>{_facts(facts)}")


def machine(config: Mapping[str, Any]) -> str:
    """Where it ran."""
    return section("Versions and machine", _facts({**config["versions"], **dict(_flat(config["hardware"]))}))


def settings(config: Mapping[str, Any]) -> str:
    """All options, with the values that stood for those left open, and what a recipe filled in."""
    options = {**config["options"], **config.get("recipe", {})}
    for name, values in config.get("used", {}).items():
        options[name] = {**options[name], **values}
    return section("Settings", _facts(dict(_flat(options))))


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
        f'<tr><td class="key">{text(name)}</td><td class="value">{text(_value(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _value(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def text(value: Any) -> str:
    """Escaped for the page."""
    return html.escape(str(value))


def _tone(name: str) -> str:
    """The class that colours a row."""
    return name if name in ("", "random", "expert", "demonstrations", "clone", "policy") else "other"
