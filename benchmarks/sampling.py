"""Running a workload: one fresh process a sample, one thread, the two libraries in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalogue import OURS, PEER, Result, Side, Workload

HERE = Path(__file__).resolve().parent
THREADS = 1
ONE_THREAD = {
    name: str(THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}


class WorkloadError(RuntimeError):
    """A workload's process ended with an error; its last lines are the message."""


@dataclass
class Samples:
    """All runs of one side of a workload, in the order they were made. Seconds are of the timed section."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the wall seconds."""
        return statistics.median(self.seconds)

    def result(self) -> Result:
        """Numbers as medians over the runs; anything else from the first run."""
        merged: dict[str, float | int | str] = dict(self.results[0])
        for key, value in merged.items():
            if isinstance(value, float):
                merged[key] = statistics.median(float(result[key]) for result in self.results)
        return merged

    def add(self, printed: Mapping[str, Any]) -> None:
        """Append what one process printed."""
        self.seconds.append(printed["seconds"])
        self.cpu_seconds.append(printed["cpu_seconds"])
        self.results.append(printed["result"])
        self.versions = dict(printed["versions"])


def run_once(python: Path, workload: Workload, side: Side, seed: int) -> dict[str, Any]:
    """One sample in a process of its own; what it printed.

    Raises:
        WorkloadError: the process failed.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {**ONE_THREAD, "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1"}
    if side.library == OURS:
        environment["PYTHONPATH"] = str(HERE.parent / "src")
    script = HERE / "workloads" / (side.script or workload.script)
    command = [str(python), "-W", "ignore", str(script), "--library", side.library, "--seed", str(seed)]
    if side.case is not None:
        command += ["--case", side.case]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise WorkloadError(f"{script.name} --library {side.library} ended with status {done.returncode}:\n{last}")
    printed: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return printed


def sample(
    workload: Workload, pythons: Mapping[str, Path], repeats: int, tick: Callable[[str], None]
) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Both sides A B A B …, then each reference once; ``tick`` is called before each run with what comes.

    Repeat ``i`` uses seed ``i`` on both sides.
    """
    sides = {PEER: workload.peer, OURS: workload.ours}
    samples = {name: Samples() for name in sides}
    for seed in range(repeats):
        for name, side in sides.items():
            tick(f"{workload.name} · {name} · {seed + 1} of {repeats}")
            samples[name].add(run_once(pythons[name], workload, side, seed))
    references = {name: Samples() for name in workload.references}
    for name, side in workload.references.items():
        tick(f"{workload.name} · {name}")
        references[name].add(run_once(pythons[OURS], workload, side, seed=0))
    return samples, references
