"""Saving reward networks with their wrappers, and loading them as networks or as reward functions.

Files are safetensors with a JSON spec; nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import DataError, SpaceMismatchError, WrongTypeError
from understudy.rewards._files import read_net, write_net
from understudy.rewards.reward_function import RewardFn
from understudy.rewards.reward_nets import (
    AddSTDRewardWrapper,
    NormalizedRewardNet,
    RewardNet,
    RewardNetWithVariance,
    RewardNetWrapper,
    ShapedRewardNet,
)
from understudy.rewards.reward_nets._encoders import count_rows
from understudy.util.devices import resolve_device
from understudy.util.image_spaces import policy_sees
from understudy.util.paths import AnyPath
from understudy.util.registry import Registry

__all__ = [
    "RewardFnLoaderFn",
    "ValidateRewardFn",
    "load_reward",
    "load_reward_net",
    "load_zero",
    "reward_registry",
    "save_reward_net",
]

RewardFnLoaderFn = Callable[..., RewardFn]
"""Called with the path, the environments and the keywords given to `load_reward`."""

reward_registry: Registry[RewardFnLoaderFn] = Registry()
"""Loaders by the name that `load_reward` takes; add one with ``reward_registry.register("my-reward", loader)``."""


def save_reward_net(net: RewardNet, path: AnyPath) -> None:
    """Write a reward network, wrappers and statistics included, as one safetensors file, replaced atomically.

    A network of your own class is kept by the class's name and the arguments it was built with; what of these is no
    plain value, space or class that this library knows is kept by the argument's name. Both have to be given again.

    Args:
        net: any reward network.
        path: used as it is, whatever the suffix.

    Raises:
        UnsupportedSpaceError: a space that cannot be written down.
        ConfigError: layers were changed after the network was made.
    """
    write_net(net, path)


def load_reward_net(
    path: AnyPath, device: torch.device | str = "auto", custom_objects: Mapping[str, Any] | None = None
) -> RewardNet:
    """Read what `save_reward_net` wrote.

    Args:
        path: the file.
        device: where to put the network; ``"auto"`` takes a GPU if there is one.
        custom_objects: by name, the classes and arguments that this library does not know, for example
            ``{"MyRewardNet": MyRewardNet, "potential": my_potential}``.

    Returns:
        The network in evaluation mode, wrappers included.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated or altered; the SHA-256 sum is always checked.
        UntrustedFileError: a pickle instead, such as ``torch.save`` of a whole network.
        ConfigError: a name missing from ``custom_objects``.
    """
    return read_net(path, resolve_device(device), custom_objects)


class ValidateRewardFn(RewardFn):
    """Checks that a reward function gives one number a row."""

    def __init__(self, reward_fn: RewardFn) -> None:
        """Wrap ``reward_fn``."""
        super().__init__()
        self.reward_fn = reward_fn

    def __call__(self, state: Any, action: np.ndarray, next_state: Any, done: np.ndarray) -> np.ndarray:
        """What the reward function gives, shape (batch,).

        Raises:
            DataError: another shape.
        """
        rews = self.reward_fn(state, action, next_state, done)
        if rews.shape != (count_rows(state),):
            raise DataError(
                expected=f"one reward a row, shape ({count_rows(state)},)",
                got=f"shape {rews.shape}",
                do="let the reward function return a flat array",
            )
        return rews


def load_reward(reward_type: str, reward_path: AnyPath, venv: VecEnv, **kwargs: Any) -> RewardFn:
    """Load a reward function for these environments.

    Args:
        reward_type: one of

            - ``"zero"``: no reward, whatever the path;
            - ``"RewardNet_normalized"``, ``"RewardNet_shaped"``, ``"RewardNet_std_added"``: as saved, and it is an
              error if no `NormalizedRewardNet`, `ShapedRewardNet`, `AddSTDRewardWrapper` is among the wrappers;
            - ``"RewardNet_unnormalized"``, ``"RewardNet_unshaped"``: without wrappers of that kind, wherever they are;
              a potential that ``custom_objects`` would have to supply is then not needed;
            - or a name in `reward_registry`.
        reward_path: what `save_reward_net` wrote.
        venv: the environments that will pay it; spaces are compared.
        kwargs: for the loader: ``update_stats=True`` lets normalisers go on moving (by default they are frozen),
            ``alpha=`` is `AddSTDRewardWrapper`'s, ``device=`` and ``custom_objects=`` as in `load_reward_net`.

    Raises:
        RegistryError: no loader of that name.
        WrongTypeError: the wrapper that the name asks for is not there.
        SpaceMismatchError: the network was made for other spaces.
        CorruptFileError: truncated or altered.
        UntrustedFileError: a pickle.
        ConfigError: a name missing from ``custom_objects``.
    """
    return ValidateRewardFn(reward_registry.get(reward_type)(reward_path, venv, **kwargs))


def load_zero(path: AnyPath | None, venv: VecEnv) -> RewardFn:
    """The reward function that is 0 everywhere.

    Args:
        path: not read.
        venv: not looked at.
    """

    def zero(state: Any, action: np.ndarray, next_state: Any, done: np.ndarray) -> np.ndarray:
        return np.zeros(count_rows(state), dtype=np.float32)

    return zero


def _loader(kind: type[RewardNetWrapper], wanted: bool) -> RewardFnLoaderFn:
    def load(
        path: AnyPath,
        venv: VecEnv,
        *,
        update_stats: bool = False,
        alpha: float | None = None,
        device: torch.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
    ) -> RewardFn:
        stand_in = None if wanted or kind is not ShapedRewardNet else _no_potential
        net = read_net(path, resolve_device(device), custom_objects, stand_in)
        _check_spaces(net, venv)
        if not wanted:
            net = _without(net, kind)
        elif not any(isinstance(each, kind) for each in _layers(net)):
            raise WrongTypeError(
                expected=f"a reward network wrapped in a {kind.__name__}",
                got=" around ".join(type(each).__name__ for each in _layers(net)),
                do="wrap it before it is saved, or load it with load_reward_net(path).predict_processed",
            )
        options: dict[str, Any] = {}
        if any(isinstance(each, NormalizedRewardNet | RewardNetWithVariance) for each in _layers(net)):
            options["update_stats"] = update_stats
        if alpha is not None:
            _check_alpha(net)
            options["alpha"] = alpha
        return partial(net.predict_processed, **options)

    return load


def _no_potential(state: Any) -> torch.Tensor:
    raise AssertionError("stands in for the potential of a network that is taken out of its shaping")


def _layers(net: RewardNet) -> Iterator[RewardNet]:
    """The network and what it is wrapped around, from the outside in."""
    yield net
    while isinstance(net, RewardNetWrapper):
        net = net.base
        yield net


def _without(net: RewardNet, kind: type[RewardNetWrapper]) -> RewardNet:
    """Take every wrapper of a kind out; those outside of it are put around what was inside."""
    if isinstance(net, kind):
        return _without(net.base, kind)
    if isinstance(net, RewardNetWrapper):
        inner = _without(net.base, kind)
        if inner is not net.base:
            net.replace_base(inner)
    return net


def _check_alpha(net: RewardNet) -> None:
    if not any(isinstance(each, AddSTDRewardWrapper) for each in _layers(net)):
        raise WrongTypeError(
            expected="alpha= only with an AddSTDRewardWrapper",
            got=" around ".join(type(each).__name__ for each in _layers(net)),
            do="leave alpha out",
        )


def _check_spaces(net: RewardNet, venv: VecEnv) -> None:
    for name, mine, theirs in (
        ("observation", net.observation_space, venv.observation_space),
        ("action", net.action_space, venv.action_space),
    ):
        if not (policy_sees(mine, theirs) or policy_sees(theirs, mine)):
            raise SpaceMismatchError(
                expected=f"environments with the reward network's {name} space {mine}",
                got=str(theirs),
                do="use the environment the reward was learned in, with the same wrappers",
            )


reward_registry.register("zero", load_zero)
reward_registry.register("RewardNet_normalized", _loader(NormalizedRewardNet, wanted=True))
reward_registry.register("RewardNet_unnormalized", _loader(NormalizedRewardNet, wanted=False))
reward_registry.register("RewardNet_shaped", _loader(ShapedRewardNet, wanted=True))
reward_registry.register("RewardNet_unshaped", _loader(ShapedRewardNet, wanted=False))
reward_registry.register("RewardNet_std_added", _loader(AddSTDRewardWrapper, wanted=True))
