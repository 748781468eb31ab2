"""Compare understudy with imitation 1.0.1: same work, same result, seconds of each.

``python benchmarks/run.py`` runs everything; ``--only bc_small rollout`` chooses; ``--quick`` runs each side once and
skips what takes minutes. The first run builds the older library's environment in ``.venv-peer``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import peer_env
import report
from catalogue import OURS, PEER, WORKLOADS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sampling import WorkloadError, sample

SLOW = ("bc_long", "gail_long", "save_infos", "load_flatten_infos")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--repeats", type=int, help="runs of each library a workload (default: the workload's own)")
    parser.add_argument("--quick", action="store_true", help=f"one run of each library, without {', '.join(SLOW)}")
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/results as it is")
    parser.add_argument("--rebuild-peer", action="store_true", help="build .venv-peer anew")
    given = parser.parse_args(arguments)
    if given.repeats is not None and given.repeats < 1:
        parser.error("--repeats: expected at least 1")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Run, show, save. The status is 1 when a workload failed or the results differ, never because it was slow."""
    given = parse_arguments(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    peer = peer_env.peer_python(console.print, rebuild=given.rebuild_peer)
    pythons = {PEER: peer, OURS: Path(sys.executable)}
    chosen = [
        workload
        for workload in WORKLOADS
        if (workload.name in given.only if given.only else not (given.quick and workload.name in SLOW))
    ]
    repeats = {workload.name: given.repeats or (1 if given.quick else workload.repeats) for workload in chosen}
    total = sum(2 * repeats[workload.name] + len(workload.references) for workload in chosen)
    records, broken = [], False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("benchmarks", total=total)
        for workload in chosen:
            runs = 0

            def tick(coming: str, workload_name: str = workload.name) -> None:
                nonlocal runs
                progress.update(task, description=coming, advance=1 if runs else 0)
                runs += 1

            try:
                samples, references = sample(workload, pythons, repeats[workload.name], tick)
            except WorkloadError as error:
                console.print(f"[red]{workload.name}[/red]: {error}", markup=True, highlight=False)
                broken = True
                progress.advance(task, 2 * repeats[workload.name] + len(workload.references) - max(runs - 1, 0))
                continue
            progress.advance(task)
            kept = report.record(workload, samples, references)
            records.append(kept)
            console.print(f"{workload.name}: {kept['ratio']:.1f}x", highlight=False)
            if not given.no_save:
                report.save(kept)
    console.print(report.rich_table(records))
    if not given.no_save:
        console.print(f"saved in benchmarks/results; table in {report.write_markdown().relative_to(peer_env.ROOT)}")
    return int(broken or not all(kept["same_result"] for kept in records))


if __name__ == "__main__":
    raise SystemExit(main())
