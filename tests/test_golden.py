"""Artefacts of every release so far are read by this version."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from understudy.algorithms.bc import BC, reconstruct_policy
from understudy.data import serialize
from understudy.data.demonstrations import as_demonstrations
from understudy.policies.serialize import load_policy, load_stable_baselines_model
from understudy.policies.vec_normalize import load_vec_normalize
from understudy.util.journal import Journal
from understudy.util.logger import configure
from understudy.util.vec_env import make_vec_env

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402 - the script that wrote them knows what is in them

RELEASES = sorted(path for path in GOLDEN.iterdir() if (path / "expected.json").is_file() and path.name[0].isdigit())

pytestmark = [pytest.mark.fault("F26"), pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)]


def expected(release: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release / "expected.json").read_text())
    return found


def test_there_is_a_release(release: Path) -> None:
    assert expected(release)["version"] == release.name


@pytest.mark.parametrize("name", ["dataset", "dataset.npz", "recording"])
def test_datasets(release: Path, name: str) -> None:
    assert list(serialize.load_with_rewards(release / name)) == [make.episode(3), make.episode(4)]
    assert len(as_demonstrations(release / name)) == 7


def test_nested_observations(release: Path) -> None:
    assert list(serialize.load(release / "nested")) == [make.episode(3, nested=True)]


def total(bc: BC) -> float:
    return float(sum(p.detach().double().sum() for p in bc.policy.parameters()))


def test_policies_and_trainers(release: Path) -> None:
    told = expected(release)
    policy = reconstruct_policy(release / "policy.safetensors")
    assert policy.predict(make.probe(), deterministic=True)[0].tolist() == told["clone"]
    logger = configure(format_strs=[])
    trainer = BC.load(release / "trainer", custom_logger=logger)
    assert total(trainer) == pytest.approx(told["clone_sum"], abs=1e-9)
    assert total(BC.load(release / "checkpoints", custom_logger=logger)) == pytest.approx(told["in_legs_sum"], abs=1e-9)
    trainer.set_demonstrations({"obs": make.probe(), "acts": np.arange(16) % 2})
    trainer.train(n_batches=1, progress_bar=False)


def test_journals(release: Path) -> None:
    assert list(Journal(release / "journal.jsonl")) == [{"answer": "left"}, {"answer": "right"}]


def test_models_of_stable_baselines(release: Path, rng: np.random.Generator) -> None:
    told = expected(release)
    states = np.random.default_rng(1).uniform(-1, 1, (16, 4)).astype(np.float32)
    for statistics in ("vec_normalize.pkl", "vec_normalize.safetensors"):
        venv = load_vec_normalize(release / "stable" / statistics, make_vec_env("CartPole-v1", rng=rng, n_envs=1))
        assert venv.obs_rms.mean.tolist() == told["obs_mean"]  # type: ignore[union-attr]
    for path in ("bare.zip", "ours"):
        policy = load_policy("ppo", venv, path=release / "stable" / path)
        assert policy.predict(states, deterministic=True)[0].tolist() == told["ppo"]
    model = load_stable_baselines_model(PPO, release / "stable" / "bare.zip", venv)
    assert model.predict(states, deterministic=True)[0].tolist() == told["ppo"]
