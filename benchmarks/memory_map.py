"""How fast and in how much memory BC trains from a data set on disk that is larger than it may hold.

``python benchmarks/memory_map.py`` writes 4 GiB a kind of data to a temporary folder, trains in fresh processes from
memory, from the file with its pages cached, and from the file with its pages dropped, and keeps the figures in
``benchmarks/results/memory_map.json``. ``--gib 0.5 --only vectors`` is a small run. Anonymous memory is ``RssAnon`` of
``/proc/self/status`` (Linux only), its peak while training less that of the same trainer on a hundred rows.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "workloads"))

STEPS = 1_000
"""Actions in a trajectory."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of data and how long to train on it."""

    what: str
    obs_shape: tuple[int, ...]
    obs_dtype: str
    act_size: int
    batch_size: int
    n_batches: int

    @property
    def row_bytes(self) -> int:
        """Of one observation, action and reward."""
        return int(np.prod(self.obs_shape)) * np.dtype(self.obs_dtype).itemsize + 4 * self.act_size + 4


KINDS = {
    "vectors": Kind("17 + 6 float32, default policy", (17,), "float32", 6, 256, 60_000),
    "wide": Kind("256 + 6 float32, default policy", (256,), "float32", 6, 256, 12_000),
    "images": Kind("4 x 84 x 84 uint8, NatureCNN", (4, 84, 84), "uint8", 6, 64, 150),
}
SOURCES = ("empty", "memory", "warm", "cold")


def trajectories(kind: Kind, n_bytes: int, seed: int = 0) -> Iterator[Any]:
    """Random trajectories, one at a time, until there are so many bytes."""
    from understudy.data.types import TrajectoryWithRew

    rng = np.random.default_rng(seed)
    steps = STEPS if kind.obs_dtype == "float32" else 100
    teacher = rng.standard_normal((int(np.prod(kind.obs_shape)), kind.act_size), dtype=np.float32)
    teacher /= np.sqrt(len(teacher))
    for _ in range(max(2, n_bytes // (steps * kind.row_bytes))):
        shape = (steps + 1, *kind.obs_shape)
        obs: np.ndarray
        if kind.obs_dtype == "uint8":
            obs = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
            acts = rng.standard_normal((steps, kind.act_size), dtype=np.float32)
        else:
            obs = rng.standard_normal(shape, dtype=np.float32)
            acts = np.tanh(obs[:-1] @ teacher)
        yield TrajectoryWithRew(obs, acts, None, True, np.ones(steps, np.float32))


class PeakAnonymous:
    """Watches ``RssAnon`` from a thread while the ``with`` block runs; ``mib`` is the largest value seen."""

    def __init__(self, every: float = 0.01) -> None:
        self._every = every
        self.mib = 0.0

    @staticmethod
    def now() -> float:
        """Anonymous memory at this moment, in MiB."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise OSError("no RssAnon in /proc/self/status: this needs Linux")

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.mib = max(self.mib, self.now())

    def __enter__(self) -> PeakAnonymous:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.mib = max(self.mib, self.now())


def _unmap_pages(folder: Path) -> None:
    """Empty this process's page tables of the files: pages that someone maps are never dropped from the cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")


def _mib_read() -> float:
    """What this process made the disk read so far; the page cache's answers do not count."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"]) / (1 << 20)


def touch(folder: Path, *, drop: bool) -> None:
    """Read the files once, so that their pages are cached, or drop those pages."""
    if drop:
        _unmap_pages(folder)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            if drop:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass


def in_memory(folder: Path) -> Any:
    """The same data as arrays that torch can share: what a trainer gets that is given arrays."""
    from understudy.data import serialize
    from understudy.data._dataset import Demonstrations

    store = serialize.load(folder, verify=False)
    columns = store.columns()
    lengths = np.diff(columns.transition_offsets)
    return Demonstrations(
        frames=np.array(columns.obs),
        obs_rows=np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)), lengths),
        acts=np.array(columns.acts),
        episode_offsets=columns.transition_offsets,
    )


def train(kind: Kind, source: str, folder: Path, seed: int, n_batches: int) -> dict[str, Any]:
    """Construct BC and train it, here and now."""
    import torch
    from gymnasium import spaces
    from measuring import Stopwatch

    from understudy.algorithms.bc import BC
    from understudy.data import serialize
    from understudy.util import logger

    torch.set_num_threads(1)
    high = 255 if kind.obs_dtype == "uint8" else np.inf
    low = 0 if kind.obs_dtype == "uint8" else -np.inf
    observation_space = spaces.Box(low, high, kind.obs_shape, np.dtype(kind.obs_dtype).type)
    action_space = spaces.Box(-np.inf, np.inf, (kind.act_size,), np.float32)
    options: dict[str, Any] = {}
    if len(kind.obs_shape) == 3:
        from stable_baselines3.common.policies import ActorCriticCnnPolicy

        torch.manual_seed(seed)
        options["policy"] = ActorCriticCnnPolicy(observation_space, action_space, lambda _: 1e-3)
    demonstrations: Any
    if source == "empty":
        demonstrations, n_batches = list(trajectories(kind, 0))[:1], 20
    elif source == "memory":
        demonstrations = in_memory(folder)
    else:
        demonstrations = serialize.load(folder, verify=False)
    with PeakAnonymous() as memory:
        began = time.perf_counter()
        trainer = BC(
            observation_space=observation_space,
            action_space=action_space,
            rng=seed,
            demonstrations=demonstrations,
            batch_size=kind.batch_size,
            device="cpu",
            custom_logger=logger.configure(tempfile.mkdtemp(), format_strs=[]),
            **options,
        )
        checked = time.perf_counter()
        trainer.train(n_batches=1, progress_bar=False)
        if source == "cold":
            touch(folder, drop=True)
        read = _mib_read()
        with (watch := Stopwatch()):
            trainer.train(n_batches=n_batches, progress_bar=False)
    return {
        "rows_per_second": n_batches * kind.batch_size / watch.seconds,
        "rows_per_cpu_second": n_batches * kind.batch_size / watch.cpu_seconds,
        "seconds": watch.seconds,
        "mib_read_from_disk": _mib_read() - read,
        "door_seconds": checked - began,
        "peak_anonymous_mib": memory.mib,
    }


def measure(name: str, gib: float, repeats: int, scratch: Path) -> dict[str, Any]:
    """All sources of one kind in turn, each in a process of its own."""
    from understudy.data import serialize

    kind = KINDS[name]
    folder = scratch / name
    began = time.perf_counter()
    serialize.save(folder, trajectories(kind, int(gib * (1 << 30))))
    wrote = time.perf_counter() - began
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {n_bytes / (1 << 30):.2f} GiB written in {wrote:.0f} s", flush=True)
    runs: dict[str, list[dict[str, Any]]] = {source: [] for source in SOURCES}
    for seed in range(repeats):
        for source in SOURCES:
            touch(folder, drop=False)
            command = [sys.executable, "-W", "ignore", __file__, "--child", source, "--only", name]
            command += ["--folder", str(folder), "--seed", str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
            if done.returncode:
                raise RuntimeError(f"{source} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
            runs[source].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {source} {seed}: {runs[source][-1]}", flush=True)
    shutil.rmtree(folder)
    speed, cpu = (
        {source: statistics.median(run[key] for run in runs[source]) for source in SOURCES}
        for key in ("rows_per_second", "rows_per_cpu_second")
    )
    peak = {s: max(run["peak_anonymous_mib"] for run in runs[s]) for s in SOURCES}
    return {
        "what": kind.what,
        "bytes": n_bytes,
        "batch_size": kind.batch_size,
        "n_batches": kind.n_batches,
        "seeds": list(range(repeats)),
        "warm_over_memory": round(speed["warm"] / speed["memory"], 3),
        "warm_over_memory_cpu": round(cpu["warm"] / cpu["memory"], 3),
        "cold_over_memory": round(speed["cold"] / speed["memory"], 3),
        "mib_above_empty_warm": round(peak["warm"] - peak["empty"], 1),
        "mib_above_empty_cold": round(peak["cold"] - peak["empty"], 1),
        "mib_above_empty_memory": round(peak["memory"] - peak["empty"], 1),
        "runs": runs,
    }


def _environment() -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1"), "PYTHONPATH": str(HERE.parent / "src")}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of each data set")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for the data (default: the system's temporary one)")
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/results as it is")
    parser.add_argument("--child", choices=SOURCES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind = KINDS[given.only[0]]
        print(json.dumps(train(kind, given.child, given.folder, given.seed, kind.n_batches)), flush=True)
        return
    from measuring import installed_versions
    from report import cpu_model

    scratch = Path(tempfile.mkdtemp(dir=given.scratch))
    try:
        kinds = {name: measure(name, given.gib, given.repeats, scratch) for name in given.only}
    finally:
        shutil.rmtree(scratch)
    for name, kept in kinds.items():
        print(name, {key: value for key, value in kept.items() if key != "runs"})
    if not given.no_save:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        record = {"date": today, "cpu": cpu_model(), "threads": 1, "versions": installed_versions(), "kinds": kinds}
        path = HERE / "results" / "memory_map.json"
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print(f"saved in {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
