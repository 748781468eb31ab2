"""The base of all reward networks."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import ConfigError, DataError
from understudy.rewards.reward_nets._arguments import KnowsItsArguments
from understudy.rewards.reward_nets._encoders import Encoded, Encoder, Rows, count_rows, encoder_of
from understudy.util.networks import evaluating
from understudy.util.tensors import safe_to_tensor


class RewardNet(KnowsItsArguments, nn.Module, ABC):
    """A reward of (state, action, next state, done), learned.

    Three ways to ask for it:

    - ``forward``, by calling the network: encoded tensors in, a reward with gradient out, in the mode the network is
      in. This is what a reward is trained through; normalisers move in training mode.
    - `predict`, `predict_th`: batches as they come from environments in, a reward without gradient out. Always in
      evaluation mode, and nothing in the network changes.
    - `predict_processed`: as `predict`, with what wrappers do to it for the sake of the policy that is trained on it.

    A subclass writes ``forward``; with Dict observations ``state`` and ``next_state`` are dictionaries of tensors.

    ``done`` means *terminated* throughout: 1 where the environment ended the episode, 0 where a time limit cut it. Of
    Gymnasium's step that is ``terminated``; of a `VecEnv` ``dones`` without those whose info has
    ``TimeLimit.truncated``; of `Transitions` ``dones``; of Stable-Baselines3's replay samples ``dones``.
    """

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], normalize_images: bool = True
    ) -> None:
        """Remember the spaces.

        Args:
            observation_space: Box (images too), Discrete, MultiDiscrete, MultiBinary, or Dict of these.
            action_space: any of these but Dict.
            normalize_images: divide images of bytes by 255.
        """
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space
        self.normalize_images = normalize_images
        self._encoders: tuple[Encoder, Encoder] | None = None

    @property
    def encoders(self) -> tuple[Encoder, Encoder]:
        """Of observations and of actions.

        Raises:
            UnsupportedSpaceError: one of the spaces has none.
        """
        if self._encoders is None:
            self._encoders = (
                encoder_of(self.observation_space, self.normalize_images),
                encoder_of(self.action_space, self.normalize_images),
            )
        return self._encoders

    @abstractmethod
    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Rewards of shape (batch,), with gradient, of what `preprocess` gives.

        Args:
            state: encoded observations, shape (batch, *encoded obs), or a dictionary of these.
            action: encoded actions, shape (batch, *encoded act).
            next_state: as ``state``.
            done: 1.0 where the episode terminated, shape (batch,).
        """

    def preprocess(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows
    ) -> tuple[Encoded, Tensor, Encoded, Tensor]:
        """A batch as tensors for ``forward``: floats on the network's device, converted once.

        Choices become one-hot vectors, images of bytes are divided by 255 after they are on the device. Images that
        come channels first where the space has them last (or the reverse) are turned, and flat actions get their
        shape back, so rows of Stable-Baselines3's buffers will do.

        Args:
            state: observations, shape (batch, *obs), or a dictionary or `DictObs` of these; arrays or tensors.
            action: in the environment's scale, shape (batch, *act).
            next_state: as ``state``.
            done: whether the episode terminated, shape (batch,) or (batch, 1).

        Raises:
            DataError: differing numbers of rows, or rows of other spaces.
        """
        obs_encoder, act_encoder = self.encoders
        device, dtype = self.device, self.dtype
        rows = [count_rows(each) for each in (state, action, next_state, done)]
        if len(set(rows)) != 1:
            raise DataError(
                expected="as many states as actions, next states and dones",
                got=f"{rows[0]}, {rows[1]}, {rows[2]} and {rows[3]} rows",
                do="pass arrays whose first axis is the same batch",
            )
        assert isinstance(done, np.ndarray | Tensor)
        return (
            obs_encoder.encode(state, device, dtype),
            act_encoder.encode(action, device, dtype),
            obs_encoder.encode(next_state, device, dtype),
            safe_to_tensor(done, device=device).to(dtype).reshape(-1),
        )

    def predict_th(self, state: Rows, action: Rows, next_state: Rows, done: Rows) -> Tensor:
        """The reward without gradient, shape (batch,), on the network's device; the network stays as it is.

        Raises:
            DataError: as `preprocess`.
            ConfigError: ``forward`` gave another shape.
        """
        with at_rest(self):
            rews = self(*self.preprocess(state, action, next_state, done))
        if tuple(rews.shape) != (count_rows(done),):
            raise ConfigError(
                expected=f"rewards of shape ({count_rows(done)},) from {type(self).__name__}.forward",
                got=f"shape {tuple(rews.shape)}",
                do="give one number a row; squeeze an output layer of one unit",
            )
        return rews  # type: ignore[no-any-return]

    def predict(self, state: Rows, action: Rows, next_state: Rows, done: Rows) -> np.ndarray:
        """As `predict_th`, as an array."""
        return to_array(self.predict_th(state, action, next_state, done))

    def predict_processed(self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any) -> np.ndarray:
        """The reward that a policy is trained on, shape (batch,); the same as `predict` unless a wrapper changes it.

        Args:
            state: as in `preprocess`.
            action: as in `preprocess`.
            next_state: as in `preprocess`.
            done: as in `preprocess`.
            kwargs: for wrappers; without one they change nothing.
        """
        return self.predict(state, action, next_state, done)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU if there are none."""
        # Lazily: to list all parameters would take longer than the forward pass of a small network.
        first = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating type; torch's default if there are none."""
        for tensor in self.parameters():
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()


class RewardNetWithVariance(RewardNet):
    """A reward network that knows how sure it is."""

    @abstractmethod
    def predict_reward_moments(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the reward, each of shape (batch,)."""


@contextmanager
def at_rest(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards every submodule is in the mode that it was in."""
    with torch.no_grad():
        if any(module.training for module in net.modules()):
            with evaluating(net):
                yield
        else:
            yield


def to_array(rews: Tensor) -> np.ndarray:
    """Shape (batch,); types that NumPy does not have become float32."""
    rews = rews.detach().cpu()
    if rews.dtype not in (torch.float32, torch.float64):
        rews = rews.float()
    array: np.ndarray = rews.reshape(-1).numpy()
    return array
