"""Adversarial trainings that are killed: the same bytes come out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from tools.child import in_child
from tools.kill import kill_at
from tools.states import sha_state

from understudy.algorithms.adversarial.airl import AIRL
from understudy.algorithms.adversarial.common import AdversarialTrainer
from understudy.algorithms.adversarial.gail import GAIL
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data import rollout
from understudy.errors import CheckpointError, ConfigError
from understudy.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet
from understudy.rl.fused_ppo import FusedPPO
from understudy.rl.learner_state import learner_state
from understudy.util.checkpoint import latest, read_checkpoint
from understudy.util.logger import configure
from understudy.util.networks import RunningNorm

KINDS = ("gail ppo", "gail fused", "gail ppo gsde", "gail ppo normalised", "airl ppo", "gail sac")


def pendulum() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=16)


def envs(kind: str, *, subproc: bool = False) -> VecEnv:
    venv: VecEnv = SubprocVecEnv([pendulum] * 2) if subproc else DummyVecEnv([pendulum] * 2)
    return VecNormalize(venv, norm_reward=False) if "normalised" in kind else venv


def make(kind: str, *, subproc: bool = False) -> AdversarialTrainer:
    torch.manual_seed(0)
    venv = envs(kind, subproc=subproc)
    venv.action_space.seed(0)
    episodes = rollout.rollout(
        None, envs("plain"), rollout.make_min_episodes(6), np.random.default_rng(0), verbose=False
    )
    learner: Any
    if "sac" in kind:
        learner = SAC("MlpPolicy", venv, learning_starts=20, buffer_size=200, device="cpu", seed=0, batch_size=16)
    else:
        options: dict[str, Any] = {"use_sde": True, "sde_sample_freq": 5} if "gsde" in kind else {}
        kind_of_ppo = FusedPPO if "fused" in kind else PPO
        learner = kind_of_ppo("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=2, device="cpu", seed=0, **options)
    net = BasicShapedRewardNet if "airl" in kind else BasicRewardNet
    return (AIRL if "airl" in kind else GAIL)(
        demonstrations=episodes,
        demo_batch_size=16,
        venv=venv,
        gen_algo=learner,
        reward_net=net(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm),
        gen_train_timesteps=32,
        custom_logger=configure(format_strs=[]),
        rng=0,
    )


def train(
    kind: str, folder: Path, *, after_round: Callable[[int], None] | None = None, subproc: bool = False
) -> AdversarialTrainer:
    """Six rounds in legs of two."""
    trainer = make(kind, subproc=subproc)
    checkpoints = Checkpoints(folder, every=64, resume=True)
    trainer.train(6 * 32, callback=after_round, checkpoints=checkpoints)
    return trainer


def killed_after(kind: str, folder: Path, rounds: int) -> bool:
    def work(mark: Callable[[int], None]) -> None:
        made = 0

        def count(number: int) -> None:
            nonlocal made
            made += 1
            if made == rounds:
                os.kill(os.getpid(), signal.SIGKILL)

        train(kind, folder, after_round=count)

    return kill_at(work, seconds=None, boundary=10**9).killed


@pytest.mark.fault("F2")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_three_times_and_resumed_is_the_same_to_the_byte(kind: str, tmp_path: Path) -> None:
    unbroken = in_child(lambda: sha_state(train(kind, tmp_path / "unbroken")))
    for rounds in (1, 3, 2):
        assert killed_after(kind, tmp_path / "killed", rounds)
    assert in_child(lambda: sha_state(train(kind, tmp_path / "killed"))) == unbroken
    assert in_child(lambda: sha_state(train(kind, tmp_path / "killed"))) == unbroken, "a finished run stays as it is"
    assert in_child(lambda: sha_state(train(kind, tmp_path / "again"))) == unbroken


@pytest.mark.fault("F2")
def test_environments_in_processes_of_their_own_give_the_same(tmp_path: Path) -> None:
    here = in_child(lambda: sha_state(train("gail ppo", tmp_path / "here")))
    assert in_child(lambda: sha_state(train("gail ppo", tmp_path / "there", subproc=True))) == here


def test_a_saved_trainer_goes_on(tmp_path: Path) -> None:
    trainer = make("gail sac")
    trainer.train(64)
    trainer.save(tmp_path / "saved")
    other = make("gail sac")
    other.load(tmp_path / "saved")
    assert sha_state(other) == sha_state(trainer)
    other.train(64)
    assert other.n_rounds == 4


def test_another_learner_or_other_options_are_refused(tmp_path: Path) -> None:
    make("gail ppo").save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="SAC"):
        make("gail sac").load(tmp_path / "saved")
    train("gail ppo", tmp_path / "run")
    trainer = make("gail ppo")
    trainer.n_disc_updates_per_round = 5
    with pytest.raises(ConfigError, match="n_disc_updates_per_round"):
        trainer.train(6 * 32, checkpoints=Checkpoints(tmp_path / "run", every=64, resume=True))


def test_a_training_that_a_callback_ended_goes_on_when_resumed(tmp_path: Path) -> None:
    trainer = make("gail ppo")
    checkpoints = Checkpoints(tmp_path / "run", every=64, resume=True)
    trainer.train(6 * 32, checkpoints=checkpoints, learner_callback=lambda found, _: found["self"].num_timesteps < 100)
    assert (trainer.n_rounds, trainer.gen_algo.num_timesteps) == (3, 100)
    newest = latest(tmp_path / "run")
    assert newest is not None
    assert not read_checkpoint(newest, kind="GAIL").state["run"]["finished"]
    resumed = [train("gail ppo", tmp_path / "run") for _ in range(2)]
    assert [each.n_rounds for each in resumed] == [6, 6]
    assert len({each.gen_algo.num_timesteps for each in resumed}) == 1, "and then it is finished"


def test_hindsight_replay_cannot_be_saved() -> None:
    class Buffer(HerReplayBuffer):
        def __init__(self) -> None:
            pass

    learner = make("gail sac").gen_algo
    learner.replay_buffer = Buffer()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="HerReplayBuffer"):
        learner_state(learner)
