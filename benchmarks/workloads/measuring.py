"""What every workload shares: its command line, the stopwatch, and the one line of JSON it prints."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from types import TracebackType

VERSIONED = (
    "imitation",
    "understudy",
    "torch",
    "numpy",
    "gymnasium",
    "stable-baselines3",
    "seals",
    "pyarrow",
    "datasets",
)


@dataclass(frozen=True)
class Arguments:
    """What the driver asks of one run.

    ``library`` is the import prefix of the library under test, ``case`` the variant of the workload.
    """

    library: str
    case: str
    seed: int


@dataclass
class Stopwatch:
    """Wall and processor seconds of the ``with`` block; several blocks add up."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _start: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Stopwatch:
        self._start = (time.perf_counter(), time.process_time())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu_seconds += time.process_time() - self._start[1]


@dataclass(frozen=True)
class Measurement:
    """One timed run. ``result`` is what the driver compares between the libraries."""

    seconds: float
    cpu_seconds: float
    result: dict[str, float | int | str]


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter here, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def run(measure: Callable[[Arguments], Measurement], *, cases: Sequence[str] = ("default",)) -> None:
    """Parse the command line, measure once on one thread, print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--library", default="understudy", help="import prefix: imitation, understudy, stable_baselines3"
    )
    parser.add_argument("--case", choices=cases, default=cases[0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    measurement = measure(Arguments(library=given.library, case=given.case, seed=given.seed))
    print(json.dumps({**asdict(measurement), "versions": installed_versions()}), flush=True)
