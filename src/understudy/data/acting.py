"""Anything that acts, as one kind of callable; and acting with nothing random but what one generator decides."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.data._acting import lean_actor
from understudy.errors import ConfigError, SpaceMismatchError
from understudy.util.image_spaces import policy_sees

_Obs = np.ndarray | dict[str, np.ndarray]
_State = tuple[np.ndarray, ...] | None
PolicyCallable = Callable[[_Obs, _State, np.ndarray | None], tuple[np.ndarray, _State]]
"""(observations, recurrent state, episode starts) → (actions, recurrent state), all batched over environments."""


@runtime_checkable
class HasPolicy(Protocol):
    """An algorithm of this library: it acts through its policy."""

    @property
    def policy(self) -> BasePolicy:
        """The policy."""


AnyPolicy = BaseAlgorithm | BasePolicy | HasPolicy | Callable[..., Any] | None
"""Something of Stable-Baselines3's or ours with a policy, a callable (of observations, or a PolicyCallable), or None
for random actions."""


def check_policy_spaces(
    policy: BaseAlgorithm | BasePolicy, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Raise SpaceMismatchError unless the policy was made for these spaces (channels-last images are the same)."""
    for kind, mine, theirs in (
        ("observation space", policy.observation_space, observation_space),
        ("action space", policy.action_space, action_space),
    ):
        if mine is not None and not policy_sees(mine, theirs):
            raise SpaceMismatchError(
                expected=f"an environment with the policy's {kind} {mine}",
                got=str(theirs),
                do="use the environment the policy was made for, with the same wrappers",
            )


def _takes_observations_only(policy: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(policy)
    except (TypeError, ValueError):
        return False
    for n in (3, 1):
        try:
            signature.bind(*[None] * n)
        except TypeError:
            continue
        return n == 1
    raise ConfigError(
        expected="a policy that is called with observations, or with observations, state and episode starts",
        got=f"a callable with the parameters {signature}",
        do="wrap it, for example lambda obs: policy(obs, my_option)",
    )


def policy_to_callable(policy: AnyPolicy, venv: VecEnv, deterministic_policy: bool = False) -> PolicyCallable:
    """Make anything that acts into one kind of callable.

    Args:
        policy: a Stable-Baselines3 algorithm or policy, a callable with or without recurrent state, or None for
            uniformly random actions.
        venv: where it will act; spaces are compared.
        deterministic_policy: take the mode of the policy's distribution. A callable decides for itself.

    Raises:
        SpaceMismatchError: the policy was made for other spaces.
        ConfigError: ``deterministic_policy`` with random actions, or something that cannot act.
    """
    if not isinstance(venv, VecEnv):
        raise ConfigError(
            expected="vectorised environments (a VecEnv)",
            got=type(venv).__name__,
            do="use make_vec_env('CartPole-v1', rng=rng), or DummyVecEnv([lambda: env])",
        )
    if policy is None:
        if deterministic_policy:
            raise ConfigError(
                expected="a policy with a most likely action",
                got="random actions (policy=None) with deterministic_policy=True",
                do="pass a policy, or leave deterministic_policy at False",
            )

        def random_actions(obs: _Obs, state: _State, episode_starts: np.ndarray | None) -> tuple[np.ndarray, _State]:
            return np.stack([venv.action_space.sample() for _ in range(venv.num_envs)]), None

        return random_actions
    if isinstance(policy, (BaseAlgorithm, BasePolicy)):
        check_policy_spaces(policy, venv.observation_space, venv.action_space)
        actor = policy

        def predicted(obs: _Obs, state: _State, episode_starts: np.ndarray | None) -> tuple[np.ndarray, _State]:
            return actor.predict(obs, state=state, episode_start=episode_starts, deterministic=deterministic_policy)

        return predicted
    if callable(policy):
        function = policy
        if _takes_observations_only(function):
            return lambda obs, state, episode_starts: (np.asarray(function(obs)), None)
        return function
    if isinstance(policy, HasPolicy):
        return policy_to_callable(policy.policy, venv, deterministic_policy)
    raise ConfigError(
        expected="a Stable-Baselines3 algorithm or policy, a callable, or None",
        got=type(policy).__name__,
        do="wrap it in a function of the observations that returns actions",
    )


@contextmanager
def drawing_from(rng: np.random.Generator, policy: AnyPolicy, venv: VecEnv) -> Iterator[None]:
    """Everything random inside comes from ``rng``, and the caller finds all as it was.

    Stable-Baselines3 policies sample from torch's global generator (and DQN from NumPy's), so these are seeded and put
    back; their ``predict`` switches to evaluation mode, so the mode of every module is put back.
    """
    seeds = rng.integers(2**31 - 1, size=3)
    actor = getattr(policy, "__self__", policy)  # for a bound method, such as `policy.predict`, its object
    module = actor if isinstance(actor, torch.nn.Module) else getattr(actor, "policy", None)
    modes = {m: m.training for m in module.modules()} if isinstance(module, torch.nn.Module) else {}
    devices = [module.device] if isinstance(module, BasePolicy) and module.device.type == "cuda" else []
    # Algorithms and policies such as RandomPolicy may sample from a copy of their own.
    sampled = [venv.action_space, *(getattr(owner, "action_space", None) for owner in (actor, module))]
    action_spaces = [space for space in sampled if isinstance(space, gym.Space)]
    space_states = [space.np_random.bit_generator.state for space in action_spaces]
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            if isinstance(module, BasePolicy):
                module.set_training_mode(False)
            torch.default_generator.manual_seed(int(seeds[0]))  # `torch.manual_seed` would reseed every GPU
            if devices:
                with torch.cuda.device(devices[0]):
                    torch.cuda.manual_seed(int(seeds[0]))
            np.random.seed(int(seeds[0]))  # noqa: NPY002
            venv.seed(int(seeds[1]))
            for space in action_spaces:
                space.seed(int(seeds[2]))
            yield
        finally:
            for m, mode in modes.items():
                m.training = mode
            for space, state in zip(action_spaces, space_states, strict=True):
                space.np_random.bit_generator.state = state
            np.random.set_state(numpy_state)  # noqa: NPY002


def policy_in_a_loop(policy: AnyPolicy, venv: VecEnv, deterministic_policy: bool) -> PolicyCallable:
    """As ``policy_to_callable``, but faster, for many steps in a row.

    The policy must be in evaluation mode, as it is inside ``drawing_from``.
    """
    act = policy_to_callable(policy, venv, deterministic_policy)
    plain = policy.policy if isinstance(policy, BaseAlgorithm) else policy
    own_predict = isinstance(policy, BaseAlgorithm) and type(policy).predict is not BaseAlgorithm.predict
    if not isinstance(plain, BasePolicy) or own_predict:
        return act
    lean = lean_actor(plain, deterministic_policy)
    return act if lean is None else lambda obs, state, episode_starts: (lean(obs), None)
