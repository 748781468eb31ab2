"""F11: data larger than memory. Training from disk takes anonymous memory that does not grow with the data."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OBS, ACTS, STEPS = 17, 6, 1000
ROW_BYTES = 4 * (OBS + ACTS + 1)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="RssAnon stands in /proc")


def _trajectories(n_bytes: int) -> Iterator[Any]:
    from understudy.data.types import TrajectoryWithRew

    rng = np.random.default_rng(0)
    for _ in range(n_bytes // (ROW_BYTES * STEPS)):
        obs = rng.standard_normal((STEPS + 1, OBS), dtype=np.float32)
        acts = np.tanh(obs[:-1, :ACTS] + obs[:-1, -ACTS:])
        yield TrajectoryWithRew(obs, acts, None, True, np.ones(STEPS, np.float32))


def _anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def _watched(work: Callable[[], None]) -> tuple[float, float]:
    """Peak of anonymous memory in MiB, and seconds."""
    over, seen = threading.Event(), [_anonymous_mib()]

    def watch() -> None:
        while not over.wait(0.005):
            seen.append(_anonymous_mib())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return max(*seen, _anonymous_mib()), time.perf_counter() - start


def _train(demonstrations: Any, n_batches: int, **options: Any) -> str:
    """SHA-256 of the parameters afterwards."""
    from gymnasium import spaces

    from understudy.algorithms.bc import BC
    from understudy.util import logger

    bc = BC(
        observation_space=spaces.Box(-np.inf, np.inf, (OBS,), np.float32),
        action_space=spaces.Box(-1, 1, (ACTS,), np.float32),
        rng=0,
        demonstrations=demonstrations,
        batch_size=256,
        device="cpu",
        custom_logger=logger.configure(tempfile.mkdtemp(), format_strs=[]),
    )
    bc.train(n_batches=n_batches, progress_bar=False, **options)
    digest = hashlib.sha256()
    for parameter in bc.policy.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def _in_memory(folder: str) -> dict[str, np.ndarray]:
    from understudy.data import serialize

    columns = serialize.load(folder, verify=False).columns()
    assert isinstance(columns.obs, np.ndarray)
    last = columns.frame_offsets[1:] - 1
    return {
        "obs": np.delete(columns.obs, last, axis=0),
        "acts": np.array(columns.acts),
        "episode_ends": columns.transition_offsets[1:],
    }


def _child(folder: str, n_batches: int, windows: bool, compare: bool) -> dict[str, Any]:
    """In a process of its own: an empty trainer, then one on the data on disk, then one on the same in memory."""
    import torch

    torch.set_num_threads(1)
    if windows:
        from understudy.data import _order

        _order.EXACT_ROWS = 0
    few = list(_trajectories(8 * STEPS * ROW_BYTES))
    empty, _ = _watched(lambda: _train(few, 50) and None)
    sums: list[str] = []
    peak, seconds = _watched(lambda: sums.append(_train(folder, n_batches)))
    found: dict[str, Any] = {"above_mib": peak - empty, "seconds": seconds}
    held_out, _ = _watched(lambda: _train(folder, 50, validation_fraction=0.05) and None)
    found["above_mib_with_validation"] = held_out - empty
    if compare:
        arrays = _in_memory(folder)
        peak, found["seconds_in_memory"] = _watched(lambda: sums.append(_train(arrays, n_batches)))
        found["above_mib_in_memory"] = peak - empty
    return {**found, "sums": sums}


def _run(folder: Path, n_batches: int, *, windows: bool = False, compare: bool = True) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(folder), str(n_batches), str(windows), str(compare)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def quarter_gib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB: 2.8 million steps in several record batches."""
    from understudy.data import serialize

    path = tmp_path_factory.mktemp("large") / "data"
    serialize.save(path, _trajectories(256 << 20))
    return path


@linux_only
@pytest.mark.fault("F11")
def test_a_dataset_on_disk_is_trained_on_where_it_lies(quarter_gib: Path) -> None:
    found = _run(quarter_gib, 2_000)
    assert found["above_mib"] <= 96
    assert found["above_mib_with_validation"] <= 96
    assert found["above_mib_in_memory"] >= 200, "what is measured does not tell data in memory from data on disk"
    assert found["sums"][0] == found["sums"][1]


@linux_only
@pytest.mark.fault("F11")
def test_what_an_inexact_shuffle_takes_is_a_constant(quarter_gib: Path) -> None:
    found = _run(quarter_gib, 4_000, windows=True, compare=False)
    assert found["above_mib"] <= 176


@linux_only
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.fault("F11")
def test_four_gib_in_half_a_gib(tmp_path: Path) -> None:
    from understudy.data import serialize

    serialize.save(tmp_path / "data", _trajectories(4 << 30))
    found = _run(tmp_path / "data", 60_000, compare=False)
    print({name: value for name, value in found.items() if name != "sums"})
    assert found["above_mib"] <= 512
    assert found["above_mib_with_validation"] <= 512


if __name__ == "__main__":
    told = _child(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True", sys.argv[4] == "True")
    print(json.dumps(told))
