"""Networks around networks: two families, told apart by what they change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.errors import ConfigError, WrongTypeError
from understudy.rewards.reward_nets._base import RewardNet, RewardNetWithVariance, at_rest, to_array
from understudy.rewards.reward_nets._encoders import Encoded, Rows
from understudy.util.networks import BaseNorm


class RewardNetWrapper(RewardNet):
    """A reward network around another, with its spaces, device and `preprocess`."""

    def __init__(self, base: RewardNet) -> None:
        """Wrap ``base``, whose parameters become this network's too."""
        if not isinstance(base, RewardNet):
            raise WrongTypeError(
                expected="a RewardNet to wrap", got=type(base).__name__, do="pass a network, not a function of it"
            )
        super().__init__(base.observation_space, base.action_space, base.normalize_images)
        self._base = base

    @property
    def base(self) -> RewardNet:
        """The network inside."""
        return self._base

    def replace_base(self, base: RewardNet) -> None:
        """Put another network in the place of the one inside."""
        args, kwargs = self._built_with
        old = self._base
        self._built_with = (
            tuple(base if value is old else value for value in args),
            {key: base if value is old else value for key, value in kwargs.items()},
        )
        self._base = base

    @property
    def device(self) -> torch.device:
        """Of the network inside."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network inside."""
        return self.base.dtype

    def preprocess(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows
    ) -> tuple[Encoded, Tensor, Encoded, Tensor]:
        """As the network inside does."""
        return self.base.preprocess(state, action, next_state, done)


class ForwardWrapper(RewardNetWrapper):
    """Changes ``forward``, and with it everything: what is trained and what is predicted. Differentiable.

    These come first, directly around a network or each other.
    """

    def __init__(self, base: RewardNet) -> None:
        """Wrap ``base``.

        Raises:
            ConfigError: it is a `PredictProcessedWrapper`, whose work would be lost here.
        """
        if isinstance(base, PredictProcessedWrapper):
            raise ConfigError(
                expected="wrappers of `forward` inside, wrappers of `predict_processed` outside",
                got=f"{type(self).__name__} around {type(base).__name__}",
                do=f"wrap the other way round: {type(base).__name__}({type(self).__name__}(net, ...), ...)",
            )
        super().__init__(base)


class PredictProcessedWrapper(RewardNetWrapper):
    """Changes `predict_processed` only: what a policy is trained on. ``forward`` and `predict` are the inner ones."""

    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Of the network inside."""
        rews: Tensor = self.base(state, action, next_state, done)
        return rews

    def predict_processed(self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any) -> np.ndarray:
        """Of the network inside; a subclass changes it.

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            kwargs: passed on.
        """
        return self.base.predict_processed(state, action, next_state, done, **kwargs)

    def predict(self, state: Rows, action: Rows, next_state: Rows, done: Rows) -> np.ndarray:
        """Of the network inside."""
        return self.base.predict(state, action, next_state, done)

    def predict_th(self, state: Rows, action: Rows, next_state: Rows, done: Rows) -> Tensor:
        """Of the network inside."""
        return self.base.predict_th(state, action, next_state, done)


class NormalizedRewardNet(PredictProcessedWrapper):
    """Rewards with mean 0 and variance 1, by running statistics of the inner `predict_processed`.

    It centres as well as scales, unlike Stable-Baselines3's ``VecNormalize``, which scales by the returns' spread. Only
    `predict_processed` is normalised, and only it moves the statistics.
    """

    normalize_output_layer: BaseNorm

    def __init__(self, base: RewardNet, normalize_output_layer: type[BaseNorm]) -> None:
        """Wrap ``base``.

        Args:
            base: any reward network.
            normalize_output_layer: built for one feature, for example `RunningNorm`.
        """
        super().__init__(base)
        self.normalize_output_layer = normalize_output_layer(1).to(base.device)

    def predict_processed(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows, update_stats: bool = True, **kwargs: Any
    ) -> np.ndarray:
        """Normalised by the statistics so far, which are then moved by this batch, shape (batch,).

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            update_stats: False leaves them, here and in every network inside: for evaluating, and for scoring.
            kwargs: passed on.
        """
        rews = self.base.predict_processed(state, action, next_state, done, update_stats=update_stats, **kwargs)
        return to_array(self.standardize(torch.as_tensor(rews, device=self.device), update_stats))

    def standardize(self, rews: Tensor, update_stats: bool) -> Tensor:
        """Rewards of shape (batch,) of the network inside, normalised; then, if asked to, statistics are moved."""
        with at_rest(self.normalize_output_layer):
            normalized: Tensor = self.normalize_output_layer(rews)
            if update_stats:
                self.normalize_output_layer.update_stats(rews)
        return normalized


class AddSTDRewardWrapper(PredictProcessedWrapper):
    """Mean + α standard deviation: a reward that shuns what it is unsure of (α < 0), or that seeks it (α > 0)."""

    def __init__(self, base: RewardNetWithVariance, default_alpha: float = 0.0) -> None:
        """Wrap ``base``.

        Args:
            base: a network that tells its variance, such as `RewardEnsemble`.
            default_alpha: α where none is given.

        Raises:
            WrongTypeError: the network does not tell its variance.
        """
        _check_variance(base)
        super().__init__(base)
        self.default_alpha = default_alpha

    def replace_base(self, base: RewardNet) -> None:
        """Put another network in the place of the one inside.

        Raises:
            WrongTypeError: it does not tell its variance.
        """
        _check_variance(base)
        super().replace_base(base)

    @property
    def base(self) -> RewardNetWithVariance:
        """The network inside."""
        assert isinstance(self._base, RewardNetWithVariance)
        return self._base

    def predict_processed(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows, alpha: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Mean + α standard deviation of `predict_reward_moments`, shape (batch,).

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            alpha: α; None is the default given at construction.
            kwargs: passed on.
        """
        mean, variance = self.base.predict_reward_moments(state, action, next_state, done, **kwargs)
        combined: np.ndarray = mean + (self.default_alpha if alpha is None else alpha) * np.sqrt(variance)
        return combined


def _check_variance(net: RewardNet) -> None:
    if not isinstance(net, RewardNetWithVariance):
        raise WrongTypeError(
            expected="a RewardNetWithVariance, such as RewardEnsemble",
            got=type(net).__name__,
            do="build an ensemble of such networks and wrap that",
        )


def wrap_forward(net: RewardNet, wrap: Callable[[RewardNet], RewardNet]) -> RewardNet:
    """Wrap what is inside the wrappers of `predict_processed`, and put those around the result again.

    ``net`` stays as it is; everything with parameters or statistics is shared with what is returned. So an algorithm
    can make rewards of a network's logits, and the normaliser around that network normalises these rewards.

    Args:
        net: any reward network.
        wrap: makes the new inner network of the old one, such as a `ForwardWrapper`.

    Raises:
        WrongTypeError: an `AddSTDRewardWrapper` is to go around something that does not tell its variance.
    """
    if not isinstance(net, PredictProcessedWrapper):
        return wrap(net)
    inner = wrap_forward(net.base, wrap)
    outer = copy.copy(net)
    outer._modules = dict(net._modules)  # a copy of a module shares this dictionary otherwise
    outer.replace_base(inner)
    return outer
