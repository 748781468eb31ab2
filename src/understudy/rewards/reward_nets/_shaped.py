"""Rewards shaped by a potential; Ng, Harada & Russell (1999), theorem 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from understudy.errors import ConfigError
from understudy.functional.shaping import potential_shaping
from understudy.rewards.reward_nets._base import RewardNet
from understudy.rewards.reward_nets._basic import BasicRewardNet
from understudy.rewards.reward_nets._potentials import BasicPotentialMLP
from understudy.rewards.reward_nets._wrappers import ForwardWrapper


class ShapedRewardNet(ForwardWrapper):
    """r + γ Φ(s') (1 − done) − Φ(s), see `functional.shaping.potential_shaping`.

    ``done`` is *terminated*: only then has the next state no potential. Give 1 where a time limit struck and the
    learner is told that a state is worth nothing because a clock ran out.
    """

    def __init__(self, base: RewardNet, potential: Callable[[Any], Tensor], discount_factor: float) -> None:
        """Wrap ``base``.

        Args:
            base: r.
            potential: Φ, a network (then trained with the reward) or any function of encoded observations. Gives
                shape (batch,) or (batch, 1). It is called once a batch, with states and next states together.
            discount_factor: γ, the learner's.
        """
        super().__init__(base)
        self.potential = potential
        self.discount_factor = discount_factor

    def forward(self, state: Any, action: Tensor, next_state: Any, done: Tensor) -> Tensor:
        """Shape (batch,)."""
        rews: Tensor = self.base(state, action, next_state, done)
        n = len(rews)
        potentials = self.potential(_one_after_the_other(state, next_state)).reshape(-1)
        if len(potentials) != 2 * n:
            raise ConfigError(
                expected=f"a potential of shape ({2 * n},) for {2 * n} states",
                got=f"{len(potentials)} numbers",
                do="give one number a state",
            )
        now, then = potentials[:n], potentials[n:]
        return potential_shaping(rews, now, then, done.to(rews.dtype), self.discount_factor)


class BasicShapedRewardNet(ShapedRewardNet):
    """`BasicRewardNet` shaped by `BasicPotentialMLP`: the form that AIRL learns."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        reward_hid_sizes: Sequence[int] = (32,),
        potential_hid_sizes: Sequence[int] = (32, 32),
        use_state: bool = True,
        use_action: bool = True,
        use_next_state: bool = False,
        use_done: bool = False,
        discount_factor: float = 0.99,
        **kwargs: Any,
    ) -> None:
        """Build both.

        Args:
            observation_space: as in `RewardNet`.
            action_space: as in `RewardNet`.
            reward_hid_sizes: units of the reward's hidden layers.
            potential_hid_sizes: units of the potential's.
            use_state: whether the base reward depends on the state;
            use_action: on the action;
            use_next_state: on the next state;
            use_done: on whether the episode terminated.
            discount_factor: γ, the learner's.
            kwargs: for `build_mlp`, of both; ``spectral_norm`` for the base alone.
        """
        only_base = {key: kwargs.pop(key) for key in ("spectral_norm",) if key in kwargs}
        base = BasicRewardNet(
            observation_space,
            action_space,
            use_state=use_state,
            use_action=use_action,
            use_next_state=use_next_state,
            use_done=use_done,
            hid_sizes=reward_hid_sizes,
            **only_base,
            **kwargs,
        )
        super().__init__(base, BasicPotentialMLP(observation_space, potential_hid_sizes, **kwargs), discount_factor)


def _one_after_the_other(first: Any, second: Any) -> Any:
    """Two batches as one, entry by entry."""
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    return {key: _one_after_the_other(value, second[key]) for key, value in first.items()}
