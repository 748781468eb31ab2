"""500 trajectories of 1,000 steps (17 + 6 float32, and rewards): written to disk, and read back into flat arrays.

``--case save`` times ``serialize.save``; understudy's syncs the files, and sums their SHA-256 as it goes.
``--case load_flatten`` times ``serialize.load_with_rewards`` and ``rollout.flatten_trajectories_with_rew``, after which
a trainer has all it needs in contiguous arrays; understudy compares the SHA-256 first. ``…_infos`` is the same with an
info dictionary of five entries a step. Files were written a moment ago, so the system still has their pages.
"""

from __future__ import annotations

import hashlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Arguments, Measurement, Stopwatch, run

N_TRAJECTORIES = 500
N_STEPS = 1_000
WARM_UP = 2
"""Trajectories written and read once before, so that one-time costs stay outside."""


def trajectories(library: str, seed: int, *, with_infos: bool) -> list[Any]:
    """Noise; every second trajectory ends by itself, the others are fragments."""
    types = importlib.import_module(f"{library}.data.types")
    rng = np.random.default_rng([2024, seed])
    made = []
    for number in range(N_TRAJECTORIES):
        obs = rng.standard_normal((N_STEPS + 1, 17), dtype=np.float32)
        acts = rng.standard_normal((N_STEPS, 6), dtype=np.float32)
        rews = rng.standard_normal(N_STEPS, dtype=np.float32)
        infos = np.array([_info(t, rews[t], obs[t]) for t in range(N_STEPS)]) if with_infos else None
        made.append(types.TrajectoryWithRew(obs=obs, acts=acts, infos=infos, terminal=number % 2 == 0, rews=rews))
    return made


def _info(step: int, reward: np.float32, obs: np.ndarray) -> dict[str, Any]:
    """What a locomotion task tells about a step."""
    return {
        "TimeLimit.truncated": False,
        "x_position": float(obs[0]),
        "x_velocity": float(obs[1]),
        "reward_run": float(reward),
        "step": step,
    }


def fingerprint(transitions: Any) -> dict[str, float | int | str]:
    """Of the values as float32: the older library reads them back as float64."""
    digest = hashlib.sha256()
    for name in ("obs", "next_obs", "acts", "rews"):
        array = np.asarray(getattr(transitions, name), dtype=np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(np.asarray(transitions.dones, dtype=bool).tobytes())
    infos = transitions.infos
    told = sum(info.get("x_position", 0.0) for info in infos)
    return {
        "n_transitions": len(transitions.acts),
        "arrays_sha256": digest.hexdigest(),
        "obs_dtype": str(transitions.obs.dtype),
        "n_infos": len(infos),
        "infos_sum": float(told),
    }


def measure(arguments: Arguments) -> Measurement:
    """One of the cases."""
    serialize = importlib.import_module(f"{arguments.library}.data.serialize")
    rollout = importlib.import_module(f"{arguments.library}.data.rollout")
    made = trajectories(arguments.library, arguments.seed, with_infos=arguments.case.endswith("_infos"))
    saving, loading = Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        serialize.save(Path(folder) / "warm_up", made[:WARM_UP])
        rollout.flatten_trajectories_with_rew(serialize.load_with_rewards(Path(folder) / "warm_up"))
        path = Path(folder) / "dataset"
        with saving:
            serialize.save(path, made)
        n_bytes = sum(file.stat().st_size for file in path.iterdir())
        with loading:
            flat = rollout.flatten_trajectories_with_rew(serialize.load_with_rewards(path))
        watch = saving if arguments.case.startswith("save") else loading
        return Measurement(watch.seconds, watch.cpu_seconds, {**fingerprint(flat), "bytes": n_bytes})


if __name__ == "__main__":
    run(measure, cases=("save", "load_flatten", "save_infos", "load_flatten_infos"))
