"""Several networks that disagree where they know little."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import ConfigError, SpaceMismatchError
from understudy.rewards.reward_nets._base import RewardNet, RewardNetWithVariance, at_rest, to_array
from understudy.rewards.reward_nets._encoders import Encoded, Rows, count_rows
from understudy.rewards.reward_nets._together import alike, forward_together
from understudy.rewards.reward_nets._wrappers import NormalizedRewardNet
from understudy.util.image_spaces import same_space


class RewardEnsemble(RewardNetWithVariance):
    """The mean of its members' rewards, and their variance as a measure of doubt.

    Members that are perceptrons of one architecture (`BasicRewardNet`, also inside `NormalizedRewardNet`) are evaluated
    together, in one matrix product a layer; others one after the other, with the same results.
    """

    members: nn.ModuleList

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], members: Iterable[RewardNet]
    ) -> None:
        """Gather the members.

        Args:
            observation_space: the members' own.
            action_space: the members' own.
            members: two or more, initialised or trained differently.

        Raises:
            ConfigError: fewer than two.
            SpaceMismatchError: a member has other spaces.
        """
        super().__init__(observation_space, action_space)
        members = list(members)
        if len(members) < 2:
            raise ConfigError("at least two members", f"{len(members)}", "a variance needs two; use the net by itself")
        for member in members:
            for mine, theirs in (
                (observation_space, member.observation_space),
                (action_space, member.action_space),
            ):
                if not same_space(mine, theirs):
                    raise SpaceMismatchError(
                        f"members for {mine}", f"one for {theirs}", "build all for the same spaces"
                    )
        self.members = nn.ModuleList(members)

    def constructor_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The spaces, and the members as they are now."""
        return (self.observation_space, self.action_space, list(self.members)), {}

    @property
    def num_members(self) -> int:
        """How many there are."""
        return len(self.members)

    def preprocess(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows
    ) -> tuple[Encoded, Tensor, Encoded, Tensor]:
        """As the first member does; for ``forward``, which is called with one batch for all members."""
        return self._member(0).preprocess(state, action, next_state, done)

    def forward_all(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Each member's ``forward`` on the same encoded batch, shape (batch, num_members), with gradient to each."""
        members = [self._member(i) for i in range(self.num_members)]
        nets = alike([_unnormalized(member) for member in members], len(done))
        if nets is not None:
            return forward_together(nets, state, action, next_state, done)
        return torch.stack([member(state, action, next_state, done) for member in members], 1)

    def forward(self, *args: Any) -> Tensor:
        """The members' mean, shape (batch,).

        Every member gets the same gradient through it. To train members apart, train each of `members`, or weigh the
        columns of `forward_all`.
        """
        return self.forward_all(*args).mean(1)

    def predict_processed_all(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any
    ) -> np.ndarray:
        """Each member's `predict_processed`, shape (batch, num_members).

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            kwargs: for the members, such as ``update_stats=False``.
        """
        members = [self._member(i) for i in range(self.num_members)]
        with at_rest(self):
            plain = [_unnormalized(member) for member in members]
            nets = alike(plain, count_rows(done)) if all(map(_asked_plainly, plain)) else None
            if nets is None:
                each = [member.predict_processed(state, action, next_state, done, **kwargs) for member in members]
                return np.stack(each, -1)
            columns = forward_together(nets, *nets[0].preprocess(state, action, next_state, done)).T
            update_stats = kwargs.get("update_stats", True)
            processed = [_normalized(member, rews, update_stats) for member, rews in zip(members, columns, strict=True)]
            return np.stack([to_array(rews) for rews in processed], -1)

    def predict_reward_moments(
        self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance over the members of `predict_processed_all`; the variance divides by members − 1.

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            kwargs: for the members.
        """
        rews = self.predict_processed_all(state, action, next_state, done, **kwargs)
        return rews.mean(-1), rews.var(-1, ddof=1)

    def predict_processed(self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any) -> np.ndarray:
        """The mean of the members' `predict_processed`.

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            kwargs: for the members.
        """
        mean: np.ndarray = self.predict_processed_all(state, action, next_state, done, **kwargs).mean(-1)
        return mean

    def predict(self, state: Rows, action: Rows, next_state: Rows, done: Rows, **kwargs: Any) -> np.ndarray:
        """The mean of the members' `predict_processed`; normalisers among them stay as they are.

        Args:
            state: as in `RewardNet.preprocess`.
            action: as in `RewardNet.preprocess`.
            next_state: as in `RewardNet.preprocess`.
            done: as in `RewardNet.preprocess`.
            kwargs: for the members.
        """
        return self.predict_processed(state, action, next_state, done, **{**kwargs, "update_stats": False})

    def predict_th(self, state: Rows, action: Rows, next_state: Rows, done: Rows) -> Tensor:
        """As `predict`, as a tensor on the members' device."""
        return torch.as_tensor(self.predict(state, action, next_state, done), device=self.device)

    def _member(self, i: int) -> RewardNet:
        member = self.members[i]
        assert isinstance(member, RewardNet)
        return member


def _unnormalized(member: RewardNet) -> RewardNet:
    """What is inside normalisers, which leave ``forward`` as it is."""
    while type(member) is NormalizedRewardNet:
        member = member.base
    return member


def _normalized(member: RewardNet, rews: Tensor, update_stats: bool) -> Tensor:
    """What the normalisers around a member make of the innermost reward."""
    if type(member) is NormalizedRewardNet:
        return member.standardize(_normalized(member.base, rews, update_stats), update_stats)
    return rews


def _asked_plainly(member: RewardNet) -> bool:
    """Whether all that it predicts is its ``forward`` of what the base class's `preprocess` gives."""
    names = ("predict_processed", "predict", "predict_th", "preprocess")
    return all(getattr(type(member), name) is getattr(RewardNet, name) for name in names)
