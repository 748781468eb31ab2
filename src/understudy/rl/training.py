"""Turning a recipe into a trained learner."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from understudy.errors import ConfigError
from understudy.util.vec_env import make_vec_env

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.type_aliases import MaybeCallback

    from understudy.rl.recipes import Recipe

_SCHEDULES = frozenset({"learning_rate", "clip_range", "clip_range_vf"})


def train_recipe(recipe: Recipe, *, progress_bar: bool = False, callback: MaybeCallback = None) -> BaseAlgorithm:
    """Train the recipe's learner from scratch; its environments are closed afterwards.

    The result repeats on the same library versions, CPU kind and number of torch threads.

    Args:
        recipe: what to train.
        progress_bar: show SB3's bar (needs ``rich`` and ``tqdm``).
        callback: any SB3 callback, passed on to ``learn``.

    Raises:
        ConfigError: an unknown algorithm, policy, schedule or activation function.
    """
    venv = make_vec_env(recipe.env_id, rng=np.random.default_rng(recipe.seed), n_envs=recipe.n_envs)
    try:
        model = build_learner(recipe, venv)
        model.learn(recipe.total_timesteps, callback=callback, progress_bar=progress_bar)
    finally:
        venv.close()
    return model


def build_learner(recipe: Recipe, venv: Any) -> BaseAlgorithm:
    """The recipe's untrained learner on ``venv``."""
    algorithms = _algorithms()
    if recipe.algo not in algorithms:
        raise ConfigError(f"an algorithm among {sorted(algorithms)}", repr(recipe.algo), "correct the recipe's algo")
    # A copy, because SB3 writes into the dictionaries it is given.
    options = {key: _plain_to_object(key, value) for key, value in deepcopy(dict(recipe.hyperparameters)).items()}
    return algorithms[recipe.algo](_policy(recipe.policy), venv, seed=recipe.seed, device="cpu", **options)


def _algorithms() -> Mapping[str, type[BaseAlgorithm]]:
    from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

    return {"a2c": A2C, "ddpg": DDPG, "dqn": DQN, "ppo": PPO, "sac": SAC, "td3": TD3}


def _policy(name: str) -> Any:
    from understudy.policies.base import FeedForward32Policy, SAC1024Policy

    return {"FeedForward32Policy": FeedForward32Policy, "SAC1024Policy": SAC1024Policy}.get(name, name)


def _plain_to_object(key: str, value: Any) -> Any:
    if key == "policy_kwargs":
        return {k: _activation(v) if k == "activation_fn" else v for k, v in value.items()}
    if key in _SCHEDULES and isinstance(value, str):
        return _schedule(key, value)
    return value


def _activation(name: str) -> type[torch.nn.Module]:
    cls = getattr(torch.nn, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise ConfigError("the name of a torch.nn activation", repr(name), "use for example 'Tanh' or 'ReLU'")
    return cls


def _schedule(key: str, text: str) -> Any:
    from stable_baselines3.common.utils import LinearSchedule

    kind, _, start = text.partition(":")
    try:
        if kind == "linear":
            return LinearSchedule(float(start), 0.0, 1.0)
    except ValueError:
        pass
    raise ConfigError(f"{key} as a number or 'linear:START'", repr(text), "write for example 'linear:0.001'")
