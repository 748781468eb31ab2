"""What is kept of a benchmark: one JSON file a workload, one Markdown table made from all of them, one rich table."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from catalogue import OURS, PEER, WORKLOADS, Workload
from rich.markup import escape
from rich.table import Table
from sampling import THREADS, Samples

RESULTS = Path(__file__).resolve().parent / "results"
FOREWORD = """# Results

Made by `make bench`; each row comes from the JSON file of its name, which holds every raw sample, the versions and the
seeds. Seconds are medians of the timed section with the smallest and largest in brackets, on one thread, the two
libraries in turn, each run in a fresh process. The ratio is imitation's median over understudy's.
[How the runs are made](../README.md).

"""


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def record(workload: Workload, samples: Mapping[str, Samples], references: Mapping[str, Samples]) -> dict[str, Any]:
    """Everything worth keeping of one workload; no name of the machine and no path."""
    peer, ours = samples[PEER], samples[OURS]
    peer_result, our_result = peer.result(), ours.result()
    failures = [told for check in workload.checks if (told := check.failure(peer_result, our_result))]
    shown = [text for check in workload.checks if (text := check.shown(peer_result, our_result))]
    return {
        "workload": workload.name,
        "what": workload.what,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_model(),
        "threads": THREADS,
        "seeds": list(range(len(peer.seconds))),
        "target_ratio": workload.target,
        "ratio": round(peer.median / ours.median, 3),
        "cpu_ratio": round(statistics.median(peer.cpu_seconds) / statistics.median(ours.cpu_seconds), 3),
        "same_result": not failures,
        "check": "; ".join(failures or shown),
        "samples": {name: _kept(side) for name, side in samples.items()},
        "references": {name: _kept(side) for name, side in references.items()},
    }


def _kept(side: Samples) -> dict[str, Any]:
    return {
        "median_seconds": side.median,
        "seconds": side.seconds,
        "cpu_seconds": side.cpu_seconds,
        "results": side.results,
        "versions": side.versions,
    }


def save(kept: Mapping[str, Any]) -> Path:
    """Write one workload's record; the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{kept['workload']}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return path


def load_all() -> list[dict[str, Any]]:
    """The stored records, in the catalogue's order."""
    paths = [RESULTS / f"{workload.name}.json" for workload in WORKLOADS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def _seconds(side: Mapping[str, Any]) -> str:
    low, high = min(side["seconds"]), max(side["seconds"])
    digits = 3 if side["median_seconds"] < 10 else 1
    return f"{side['median_seconds']:.{digits}f} s [{low:.{digits}f}-{high:.{digits}f}]"


def _ratio(kept: Mapping[str, Any]) -> str:
    wanted = f" (≥ {kept['target_ratio']:g})" if kept["target_ratio"] is not None else ""
    return f"{kept['ratio']:.1f}x{wanted}"


def _check(kept: Mapping[str, Any]) -> str:
    word = "same" if kept["same_result"] else "DIFFERS"
    return f"{word}: {kept['check']}" if kept["check"] else ""


def _rows(records: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, ...]]:
    for kept in records:
        peer, ours = kept["samples"][PEER], kept["samples"][OURS]
        yield kept["workload"], kept["what"], _seconds(peer), _seconds(ours), _ratio(kept), _check(kept)
        for name, side in kept["references"].items():
            yield "", f"for comparison: {name}", "", _seconds(side), "", ""


COLUMNS = ("workload", "what", PEER, OURS, "ratio", "result (imitation / understudy)")


def rich_table(records: Iterable[Mapping[str, Any]]) -> Table:
    """For the terminal; a ratio below its target and a result that differs are red."""
    table = Table(title=f"imitation against understudy, {THREADS} thread")
    for name in COLUMNS:
        table.add_column(name, overflow="fold")
    records = list(records)
    colours = {kept["workload"]: (_ratio_colour(kept), "green" if kept["same_result"] else "red") for kept in records}
    for name, what, peer, ours, ratio, check in (tuple(map(escape, row)) for row in _rows(records)):
        ratio_colour, check_colour = colours.get(name, ("dim", "dim"))
        style = "" if name else "dim"
        table.add_row(name, what, peer, ours, f"[{ratio_colour}]{ratio}[/]", f"[{check_colour}]{check}[/]", style=style)
    return table


def _ratio_colour(kept: Mapping[str, Any]) -> str:
    if kept["target_ratio"] is None:
        return "default"
    return "green" if kept["ratio"] >= kept["target_ratio"] else "red"


def write_markdown() -> Path:
    """Make ``results/README.md`` again from all stored records; the file."""
    records = load_all()
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in _rows(records)]
    machines = sorted({f"{kept['cpu']}, {kept['threads']} thread, {kept['date']}" for kept in records})
    versions = sorted(
        {
            f"{library}: " + ", ".join(f"{name} {version}" for name, version in side["versions"].items())
            for kept in records
            for library, side in kept["samples"].items()
        }
    )
    foot = ["", "Measured on: " + "; ".join(machines) + ".", "", *(f"- {line}" for line in versions)]
    path = RESULTS / "README.md"
    path.write_text(FOREWORD + "\n".join(lines + foot) + "\n")
    return path
