"""The actor's ties to the expert and to its clone while it learns."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_pretrain import TORQUE, VECTOR, Fixed, data, make, quick

from understudy.algorithms.pretrain import Anchor, HoldActor
from understudy.errors import ConfigError


def learner(kind: type[BaseAlgorithm], env: Any = None) -> Any:
    return make(kind, env, learning_starts=4, batch_size=16, learning_rate=3e-3)


def answers(model: Any, obs: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, TQC])
def test_tied_to_the_expert_the_actor_ends_nearer_to_it(kind: type[BaseAlgorithm]) -> None:
    demos = data(True)
    errors = []
    for callback in (None, Anchor(demos, 100, expert_weight=50.0, clone_weight=0.0)):
        model = learner(kind)
        model.learn(80, callback=callback)
        errors.append(float(np.square(answers(model, demos["obs"]) - demos["acts"]).mean()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_tied_to_the_clone_it_stays_where_it_began(kind: type[BaseAlgorithm]) -> None:
    demos = data(True)
    moved = []
    for callback in (None, Anchor(demos, 10_000, expert_weight=0.0, clone_weight=50.0)):
        model = learner(kind)
        quick(model, demos)
        before = answers(model, demos["obs"])
        model.learn(80, callback=callback)
        moved.append(float(np.abs(answers(model, demos["obs"]) - before).mean()))
    assert 0 < moved[1] < 0.5 * moved[0]


def test_the_tie_to_the_clone_fades_from_the_actors_first_update() -> None:
    """Held for 20 steps; of 40, 16 have passed between the update after step 21 and that after step 37."""
    callback = Anchor(data(True), 40)
    model = learner(SAC)
    model.learn(20, callback=[HoldActor(20), callback])
    assert callback.left == 1.0
    model = learner(SAC)
    model.learn(37, callback=[HoldActor(20), callback])
    assert callback.left == pytest.approx(1 - 16 / 40)
    model = learner(SAC)
    model.learn(100, callback=callback)
    assert callback.left == 0.0


def test_a_held_actor_is_not_pulled() -> None:
    demos, model = data(True), learner(SAC)
    before = answers(model, demos["obs"])
    model.learn(30, callback=[HoldActor(30), Anchor(demos, 10)])
    assert np.array_equal(answers(model, demos["obs"]), before)


def test_the_model_is_as_before_when_learning_ends() -> None:
    """Weights of nothing change nothing, and later learning is not pulled."""
    demos = data(True)
    plain = learner(SAC)
    plain.learn(30)
    tied = learner(SAC)
    tied.learn(30, callback=Anchor(demos, 10, expert_weight=0.0, clone_weight=0.0))
    assert np.array_equal(answers(plain, demos["obs"]), answers(tied, demos["obs"]))
    model = learner(SAC)
    model.learn(30, callback=Anchor(demos, 10))
    assert not model.actor.optimizer._optimizer_step_pre_hooks


def test_the_global_generator_is_not_read() -> None:
    """Exploration and replay draw from NumPy's and torch's global streams: as many numbers as without the callback."""
    drawn = []
    for callback in (None, Anchor(data(True), 10)):
        model = learner(SAC)
        model.learn(30, callback=callback)
        drawn.append((float(np.random.random()), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_observations_of_many_kinds() -> None:
    """Of several environments, as a dictionary, and through running normalisation."""
    space = spaces.Dict({"a": VECTOR, "b": VECTOR})
    flat = data(True)
    obs = {"a": flat["obs"], "b": flat["obs"]}
    demos = flat | {"obs": obs, "next_obs": {"a": flat["next_obs"], "b": flat["next_obs"]}}

    def env() -> gym.Env[Any, Any]:
        return Fixed(space, TORQUE)

    venv = VecNormalize(DummyVecEnv([env, env]), norm_reward=False)
    model = SAC("MultiInputPolicy", venv, learning_starts=4, buffer_size=500, seed=0, policy_kwargs={"net_arch": [8]})
    model.learn(40, callback=Anchor(demos, 40))
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


def test_what_cannot_be_tied_is_refused() -> None:
    for wrong in ({"n_timesteps": 0}, {"batch_size": 0}, {"expert_weight": -1.0}, {"clone_weight": float("nan")}):
        with pytest.raises(ConfigError):
            Anchor(data(True), **({"n_timesteps": 10} | wrong))
    for kind in (PPO, DQN):
        with pytest.raises(ConfigError, match="SAC, TD3, DDPG or TQC"):
            make(kind).learn(1, callback=Anchor(data(False), 10))
