"""Reward networks for tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from understudy.rewards.reward_nets import RewardEnsemble, RewardNet

__all__ = ["MockRewardNet", "make_ensemble"]


class MockRewardNet(RewardNet):
    """The same reward everywhere."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], value: float = 0.0) -> None:
        """Give ``value`` for every row; there are no parameters."""
        super().__init__(observation_space, action_space)
        self.value = value

    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Shape (batch,)."""
        return torch.full((len(done),), float(self.value), dtype=self.dtype, device=done.device)


def make_ensemble(
    obs_space: gym.Space[Any], action_space: gym.Space[Any], num_members: int = 2, **kwargs: Any
) -> RewardEnsemble:
    """An ensemble of `MockRewardNet`.

    Args:
        obs_space: of all members.
        action_space: of all members.
        num_members: two or more.
        kwargs: for each member.
    """
    members = [MockRewardNet(obs_space, action_space, **kwargs) for _ in range(num_members)]
    return RewardEnsemble(obs_space, action_space, members)
