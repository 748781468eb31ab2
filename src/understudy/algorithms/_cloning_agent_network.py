"""Calling a cloning network: any module, with or without memory, on single steps and on sequences.

* ``forward(obs)`` has no memory. It sees ``(batch, *obs)`` and gives the output, or a pair of the output and anything.
* ``forward(obs, state)`` has memory. It sees ``(batch, time, *obs)`` and a state, None at first, and gives the output
  of every step and the next state. Where an episode begins, the agent sets the state to zeros.
* ``forward(obs, state, episode_start)`` has memory and sets it to zeros itself, where ``episode_start``, of shape
  ``(batch, time)``, is True.

A module with memory may have ``initial_state(batch_size)``, which is then used in place of None and zeros.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from understudy.algorithms._cloning_agent_leaves import is_distribution
from understudy.data.nests import (
    Nest,
    leaf_spaces,
    map_nest,
    nest_like,
    parts_of,
    refill,
)
from understudy.errors import ConfigError
from understudy.policies.base import nearest_to_zero

_NAMES_OF_STATES = frozenset(["state", "states", "network_state", "hidden", "hx", "carry"])


def parameter_dtype(network: nn.Module) -> torch.dtype:
    """Precision of a network: of its first parameter with fractions."""
    floating = (p.dtype for p in network.parameters() if p.dtype.is_floating_point)
    return next(floating, torch.float32)


@contextmanager
def training_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """The whole network in one mode; each module is then put back into its own."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


class NetworkCaller:
    """A network, and how it wants to be called.

    Args:
        network: see the module's docstring.
        observation_space: of what it is given.
        action_space: tells whether a pair is an action.
        device: where it is.
    """

    def __init__(
        self,
        network: nn.Module,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        device: torch.device,
    ) -> None:
        self.network = network
        self._observation_space = observation_space
        self._action_space = action_space
        self._device = device
        self.has_memory, self._resets_itself = _signature(network)
        self._template: Nest = None
        self._batch_axes: list[int] = []
        self._meet()

    def _meet(self) -> None:
        """Call the network once: lazy layers get their shapes, and states show which of their axes is the batch."""
        sizes = (2, 3) if self.has_memory else (2,)
        states = []
        with torch.no_grad(), training_mode(self.network, False):
            for n in sizes:
                obs = self._zeros(n)
                try:
                    if self.has_memory:
                        obs = map_nest(lambda t: t.unsqueeze(1), obs)
                        starts = torch.ones(n, 1, dtype=torch.bool, device=self._device)
                        states.append(self._remember(obs, self._first_state(n), starts)[1])
                    else:
                        self.network(obs)
                except ConfigError:
                    raise
                except Exception as err:
                    raise ConfigError(
                        expected=f"a network that takes a batch of the observations {self._observation_space}",
                        got=f"{type(err).__name__}: {str(err)[:200]}",
                        do="call it with such a batch yourself; with memory, observations have the axes (batch, time)",
                    ) from err
        if states:
            self._template = states[0]
            pairs = zip(parts_of(states[0]), parts_of(states[1]), strict=True)
            self._batch_axes = [_differing_axis(a, b) for a, b in pairs]

    def _zeros(self, n: int) -> Nest:
        dtype = parameter_dtype(self.network)
        rows = []
        for _, space in leaf_spaces(self._observation_space):
            row = torch.as_tensor(np.stack([nearest_to_zero(space)] * n))
            rows.append(row.to(self._device, dtype if row.is_floating_point() else None))
        return nest_like(self._observation_space, rows)

    def _first_state(self, n: int) -> Nest:
        make = getattr(self.network, "initial_state", None)
        return None if make is None else make(n)

    def sequences(
        self, obs: Nest, starts: Tensor | None, n_outer: int, *, burnt: int = 0
    ) -> Iterator[tuple[Any, slice]]:
        """Outputs for a batch, in pieces.

        Args:
            obs: tensors of shape (*outer, *obs).
            starts: where episodes begin, shape (*outer).
            n_outer: how many axes `outer` has.
            burnt: so many steps only run the memory: no gradient flows through them.

        Yields:
            Without memory one output, its outer axes flattened to one. With memory outputs with the outer axes
            ``batch time``, and which steps each is for.
        """
        if not self.has_memory:
            yield (
                self._output(self.network(obs if n_outer == 1 else map_nest(lambda t: t.flatten(0, 1), obs))),
                slice(None),
            )
            return
        if n_outer == 1:
            obs = map_nest(lambda t: t.unsqueeze(1), obs)
        n, steps = parts_of(obs)[0].shape[:2]
        if starts is None or n_outer == 1:
            starts = torch.zeros(n, steps, dtype=torch.bool, device=self._device)
            starts[:, 0] = True
        state = self._first_state(n)
        resets: list[int] = []
        if not self._resets_itself:
            resets = (torch.nonzero(starts[:, 1:].any(0)).flatten() + 1).tolist()
        cuts = sorted({0, *resets, *([burnt] if 0 < burnt < steps else [])})
        for begin, end in zip(cuts, [*cuts[1:], steps], strict=True):
            piece = slice(begin, end)
            if begin in resets:
                state = self._reset(state, starts[:, begin])
            steps_seen = refill(obs, [part[:, piece] for part in parts_of(obs)])
            with torch.set_grad_enabled(torch.is_grad_enabled() and end > burnt):
                output, state = self._remember(steps_seen, state, starts[:, piece])
            yield output, piece

    def step(self, obs: Nest, state: Nest, starts: Tensor | None) -> tuple[Any, Nest]:
        """One step of acting.

        Args:
            obs: tensors of shape (batch, *obs).
            state: as this gave it, or None.
            starts: where episodes begin, shape (batch,), or None.

        Returns:
            The output, with memory its outer axes ``batch time`` of one step; and the next state.
        """
        if not self.has_memory:
            return self._output(self.network(obs)), None
        obs = map_nest(lambda t: t.unsqueeze(1), obs)
        n = len(parts_of(obs)[0])
        if state is None:
            state = self._first_state(n)
            starts = torch.ones(n, dtype=torch.bool, device=self._device)
        elif starts is None:
            starts = torch.zeros(n, dtype=torch.bool, device=self._device)
        elif not self._resets_itself and bool(starts.any()):
            state = self._reset(state, starts)
        return self._remember(obs, state, starts[:, None])

    def _remember(self, obs: Nest, state: Nest, starts: Tensor) -> tuple[Any, Nest]:
        found = self.network(obs, state, starts) if self._resets_itself else self.network(obs, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ConfigError(
                expected="a pair (output, next state) from a network whose forward takes a state",
                got=type(found).__name__,
                do="return the state beside the output, or leave the parameter out",
            )
        return found

    def _output(self, found: Any) -> Any:
        """What a network without memory gave, less a state that it may have given beside it."""
        if not isinstance(found, tuple) or len(found) != 2 or hasattr(found, "_fields"):
            return found
        pair_wanted = isinstance(self._action_space, spaces.Tuple) and len(self._action_space.spaces) == 2
        empty = not isinstance(found[1], Tensor) and not is_distribution(found[1]) and not found[1]
        return found[0] if empty or not pair_wanted else found

    def _reset(self, state: Nest, starts: Tensor) -> Nest:
        first = self._first_state(len(starts))
        initial = [None] * len(self._batch_axes) if first is None else parts_of(first)
        parts = []
        for part, begin, axis in zip(parts_of(state), initial, self._batch_axes, strict=True):
            if axis < 0:
                raise ConfigError(
                    expected="states with an axis of the size of the batch",
                    got=f"shape {tuple(part.shape)} for every batch",
                    do="give forward a third parameter, episode_start, and begin anew where it is True",
                )
            shape = [1] * part.dim()
            shape[axis] = len(starts)
            # Chosen, not multiplied: a NaN of the episode before must not live on.
            parts.append(torch.where(starts.view(shape), torch.zeros_like(part) if begin is None else begin, part))
        return refill(state, parts)

    def state_to_arrays(self, state: Nest) -> tuple[np.ndarray, ...] | None:
        """A state as Stable-Baselines3's loops hand it on."""
        return None if state is None else tuple(part.detach().cpu().numpy() for part in parts_of(state))

    def state_from_arrays(self, arrays: tuple[np.ndarray, ...] | None) -> Nest:
        """The inverse of `state_to_arrays`."""
        if arrays is None or not self.has_memory:
            return None
        return refill(self._template, [torch.as_tensor(array, device=self._device) for array in arrays])


def _differing_axis(a: Tensor, b: Tensor) -> int:
    return next((i for i, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)) if n != m), -1)


def _signature(network: nn.Module) -> tuple[bool, bool]:
    """Whether a network has memory, and whether it resets it by itself."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p for p in inspect.signature(network.forward).parameters.values() if p.kind in kinds]
    if len(named) < 2:
        return False, False
    required = named[1].default is inspect.Parameter.empty
    has_memory = required or named[1].name in _NAMES_OF_STATES
    third = len(named) > 2 and (named[2].default is inspect.Parameter.empty or "start" in named[2].name)
    return has_memory, has_memory and third
