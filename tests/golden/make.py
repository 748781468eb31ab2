"""Write the golden artefacts of the installed version: `python tests/golden/make.py`, once for each release.

Later versions must read them, or say which version wrote them (`tests/test_golden.py`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import understudy
from understudy.algorithms.bc import BC
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data import serialize
from understudy.data.trajectory_writer import TrajectoryWriter
from understudy.data.types import DictObs, TrajectoryWithRew
from understudy.policies.serialize import save_stable_model
from understudy.policies.vec_normalize import save_vec_normalize
from understudy.util.journal import Journal
from understudy.util.logger import configure
from understudy.util.vec_env import make_vec_env

OBS = spaces.Box(-1, 1, (3,), np.float32)
ACT = spaces.Discrete(2)


def episode(length: int, *, nested: bool = False) -> TrajectoryWithRew:
    """The same numbers each time."""
    rng = np.random.default_rng(length)
    vectors = rng.uniform(-1, 1, (length + 1, 3)).astype(np.float32)
    images = rng.integers(0, 256, (length + 1, 2, 2, 1), dtype=np.uint8)
    return TrajectoryWithRew(
        obs=DictObs({"vector": vectors, "image": images}) if nested else vectors,
        acts=rng.integers(0, 2, length),
        infos=[{"t": t, "note": "ü"} for t in range(length)],
        terminal=length % 2 == 0,
        truncated=length == 4,
        rews=rng.normal(size=length).astype(np.float32),
    )


def probe() -> np.ndarray:
    """Observations at which policies are compared."""
    return np.random.default_rng(0).uniform(-1, 1, (16, 3)).astype(np.float32)


def trained(folder: Path | None = None) -> BC:
    """A small clone."""
    data = {"obs": probe(), "acts": np.arange(16) % 2}
    bc = BC(
        observation_space=OBS, action_space=ACT, rng=0, demonstrations=data, custom_logger=configure(format_strs=[])
    )
    options: dict[str, Any] = {} if folder is None else {"checkpoints": Checkpoints(folder, every=2)}
    bc.train(n_batches=5, progress_bar=False, **options)
    return bc


def write(folder: Path) -> None:
    """All artefacts, and what is in them."""
    serialize.save(folder / "dataset", [episode(3), episode(4)])
    serialize.save(folder / "nested", [episode(3, nested=True)])
    serialize.save(folder / "dataset.npz", [episode(3), episode(4)])
    with TrajectoryWriter(folder / "recording") as writer:
        for length in (3, 4):
            writer.append(episode(length))
            writer.flush()
    (folder / "recording" / ".lock").unlink()
    bc = trained()
    bc.save_policy(folder / "policy.safetensors")
    bc.save(folder / "trainer")
    in_legs = trained(folder / "checkpoints")
    (folder / "checkpoints" / ".lock").unlink()
    journal = Journal(folder / "journal.jsonl")
    for answer in ("left", "right"):
        journal.append({"answer": answer})
    venv = VecNormalize(make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=1))
    model = PPO(
        "MlpPolicy", venv, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}
    )
    model.learn(16)
    (folder / "stable").mkdir()
    model.save(folder / "stable" / "bare.zip")
    venv.save(str(folder / "stable" / "vec_normalize.pkl"))
    save_stable_model(folder / "stable" / "ours", model)
    save_vec_normalize(venv, folder / "stable" / "vec_normalize.safetensors")
    states = np.random.default_rng(1).uniform(-1, 1, (16, 4)).astype(np.float32)
    expected = {
        "version": understudy.__version__,
        "clone": bc.policy.predict(probe(), deterministic=True)[0].tolist(),
        "clone_sum": float(sum(p.detach().double().sum() for p in bc.policy.parameters())),
        "in_legs_sum": float(sum(p.detach().double().sum() for p in in_legs.policy.parameters())),
        "ppo": model.policy.predict(states, deterministic=True)[0].tolist(),
        "obs_mean": venv.obs_rms.mean.tolist(),  # type: ignore[union-attr]
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(__file__).parent / understudy.__version__
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(temporary, target)
    print(f"wrote {target.relative_to(Path.cwd())}")
