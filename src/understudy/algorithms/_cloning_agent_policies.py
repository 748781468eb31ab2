"""Policies of a cloning agent: greedy, sampling, and ε-greedy, over one network.

They act where Stable-Baselines3's policies do, in ``predict`` loops and rollouts, and like those they draw from torch's
global generator. Structured actions come as dictionaries and tuples of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from understudy.algorithms._cloning_agent_experience import Reader
from understudy.algorithms._cloning_agent_leaves import Leaf, not_a_number
from understudy.algorithms._cloning_agent_network import NetworkCaller, parameter_dtype
from understudy.data.nests import Nest, leaf_spaces, leaves, nest_like
from understudy.errors import ConfigError, DataError
from understudy.functional.cloning_nests import explores

State = tuple[np.ndarray, ...] | None
Epsilon = float | Tensor | Callable[[], float]


def epsilon_value(epsilon: Epsilon) -> float:
    """ε at this moment.

    Raises:
        ConfigError: outside [0, 1].
    """
    value = float(epsilon() if callable(epsilon) and not isinstance(epsilon, Tensor) else epsilon)
    if not 0 <= value <= 1:
        raise ConfigError(expected="`epsilon_greedy` in [0, 1]", got=str(value), do="pass a probability, such as 0.1")
    return value


class CloningPolicy(BasePolicy):
    """Acts by a cloning network.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        caller: the network; its parameters are shared, not copied.
        parts: the leaves of the action space.
        greedy: always take the most likely action; else sample where the network gives a distribution.
        epsilon: probability of a random action in its place, or None for none.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        caller: NetworkCaller,
        parts: list[Leaf],
        *,
        greedy: bool,
        epsilon: Epsilon | None = None,
    ) -> None:
        super().__init__(observation_space=observation_space, action_space=action_space)
        self.cloning_network = caller.network
        self.greedy = greedy
        self.epsilon = epsilon
        self._caller = caller
        self._parts = parts

    def predict(
        self,
        observation: Nest,
        state: State = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, State]:
        """Actions in the environment's values, of one observation or of a batch of them.

        Args:
            observation: arrays nested like the observation space, shape (env, *obs) or (*obs).
            state: what the last call returned beside the actions; None begins.
            episode_start: where episodes begin, shape (env,).
            deterministic: the most likely action whatever the policy: no sampling, no exploration.

        Returns:
            Arrays nested like the action space, shape (env, *act) or (*act), clipped to its bounds; and the network's
            state, None without memory.

        Raises:
            DataError: observations of another shape, or with more than one axis before the space's own.
            NonFiniteDataError: the network's outputs are NaN.
        """
        obs, single = self._read(observation)
        n = 1 if single else len(leaves(obs, self.observation_space, "obs")[0])
        starts = None
        if episode_start is not None:
            starts = torch.as_tensor(np.asarray(episode_start, dtype=bool).reshape(-1), device=self.device)
        self.set_training_mode(False)
        with torch.no_grad():
            acts, state = self._act(obs, self._caller.state_from_arrays(state), starts, n, deterministic)
        arrays = [self._array(part, act) for part, act in zip(self._parts, acts, strict=True)]
        if single:
            arrays = [array.reshape(array.shape[1:]) for array in arrays]
        return nest_like(self.action_space, arrays), state

    def _act(
        self, obs: Nest, state: Nest, starts: Tensor | None, n: int, deterministic: bool
    ) -> tuple[list[Tensor], State]:
        output, state = self._caller.step(obs, state, starts)
        outer = (n, 1) if self._caller.has_memory else (n,)
        outputs = leaves(output, self.action_space, "the network's output")
        greedy = self.greedy or deterministic
        acts = [part.acts(out, outer, greedy) for part, out in zip(self._parts, outputs, strict=True)]
        if self._caller.has_memory:
            acts = [act.squeeze(1) for act in acts]
        if self.epsilon is not None and not deterministic:
            at_random = explores(torch.rand(n), epsilon_value(self.epsilon)).to(self.device)
            for i, part in enumerate(self._parts):
                mask = at_random.view(-1, *[1] * (acts[i].dim() - 1))
                acts[i] = torch.where(mask, part.uniform(n, self.device).to(acts[i].dtype), acts[i])
        return acts, self._caller.state_to_arrays(state)

    def _read(self, observation: Nest) -> tuple[Nest, bool]:
        reader = Reader(
            self.observation_space, self.action_space, 1, self.device, parameter_dtype(self.cloning_network)
        )
        parts = [reader.tensor(part) for part in leaves(observation, self.observation_space, "the observation")]
        shapes = [tuple(space.shape or ()) for _, space in leaf_spaces(self.observation_space)]
        single = all(tuple(part.shape) == shape for part, shape in zip(parts, shapes, strict=True))
        if single:
            parts = [part.unsqueeze(0) for part in parts]
        elif not all(tuple(part.shape[1:]) == shape for part, shape in zip(parts, shapes, strict=True)):
            raise DataError(
                expected=f"observations of shapes {shapes}, or a batch of them with a single batch dimension",
                got=f"shapes {[tuple(part.shape) for part in parts]}",
                do="act step by step; pass whole sequences to the agent's loss or train",
            )
        return nest_like(self.observation_space, parts), single

    def _array(self, part: Leaf, acts: Tensor) -> np.ndarray:
        array = acts.cpu().numpy()
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise not_a_number(part.where)
        array = array.astype(part.space.dtype, copy=False)
        low, high = getattr(part.space, "low", None), getattr(part.space, "high", None)
        # Bounds in the space's own precision: what was clipped before rounding may lie outside by a bit.
        return array if low is None else np.clip(array, low, high)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        n = len(leaves(observation, self.observation_space, "the observation")[0])
        acts, _ = self._act(observation, None, None, n, deterministic)
        return cast(Tensor, nest_like(self.action_space, acts))

    def forward(self, obs: Tensor | Mapping[str, Tensor], deterministic: bool = False) -> Tensor:
        """Actions as tensors, for a batch of observation tensors and without a state."""
        return self._predict(obs, deterministic)
