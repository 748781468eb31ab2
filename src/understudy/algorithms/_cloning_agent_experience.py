"""What a cloning agent learns from, in one form: observations, actions, and where episodes begin and end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from understudy.data.nests import Nest, leaf_spaces, leaves, map_nest, nest_like
from understudy.data.types import Trajectory, TransitionsMinimal, maybe_unwrap_dictobs
from understudy.errors import DataError, EmptyDataError
from understudy.util.tensors import safe_to_tensor


class Experience(NamedTuple):
    """A batch of steps, as arrays or tensors nested like the spaces; `outer` is ``batch``, or ``batch time``."""

    obs: Nest
    """Observations before acting, shape (*outer, *obs)."""

    acts: Nest
    """What the expert did there, shape (*outer, *act)."""

    episode_start: Any = None
    """True where an episode begins, shape (*outer). None takes the first step of each sequence, and what follows a
    boundary."""

    boundary: Any = None
    """True where a step follows the end of an episode, so that its action means nothing, shape (*outer); or None."""

    padding: Any = None
    """True where there is no step at all, only filling, shape (*outer); never learned from. Or None."""

    burn_in: Any = None
    """True for the steps at the front of a sequence that only run the memory, shape (*outer): they have no loss, and no
    gradient flows through them. Or None."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Turns anything that holds experience into tensors on one device.

    Args:
        observation_space: what else comes with the observations is left out.
        action_space: likewise.
        n_outer: axes before the spaces' own, 1 or 2.
        device: where to.
        dtype: of numbers with fractions.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    n_outer: int
    device: torch.device
    dtype: torch.dtype

    def read(self, experience: Any) -> Experience:
        """Tensors, checked.

        Raises:
            DataError: no experience, or shapes that are not those of the spaces after the outer axes.
        """
        found = self._named(experience)
        obs = [self.tensor(part) for part in leaves(found.obs, self.observation_space, "obs")]
        acts = [self.tensor(part) for part in leaves(found.acts, self.action_space, "acts")]
        outer = self._outer(obs, acts)
        starts, boundary, padding, burn_in = (
            self._flags(name, getattr(found, name), outer)
            for name in ("episode_start", "boundary", "padding", "burn_in")
        )
        if starts is None and boundary is not None and self.n_outer == 2:
            starts = torch.ones_like(boundary)
            starts[:, 1:] = boundary[:, :-1]  # what follows a boundary begins an episode
        parts = nest_like(self.observation_space, obs), nest_like(self.action_space, acts)
        return Experience(*parts, starts, boundary, padding, burn_in)

    def tensor(self, value: Any) -> Tensor:
        """On the device; numbers with fractions in the network's precision, all others as they are."""
        if not isinstance(value, Tensor):
            value = np.asarray(value)
            if value.dtype.kind == "u" and value.itemsize > 1:
                value = value.astype(np.int64)  # torch knows little of unsigned integers longer than a byte
            value = safe_to_tensor(value)
        return value.to(self.device, self.dtype if value.is_floating_point() else None)  # type: ignore[no-any-return]

    def _named(self, experience: Any) -> Experience:
        if isinstance(experience, Experience):
            return experience
        if isinstance(experience, Trajectory):
            episode = of_trajectory(experience)
            return episode if self.n_outer == 1 else join([episode], self, self.n_outer)
        if isinstance(experience, TransitionsMinimal):
            return Experience(maybe_unwrap_dictobs(experience.obs), experience.acts)
        if isinstance(experience, Mapping):
            return _of_mapping(experience)
        if hasattr(experience, "_asdict"):
            return _of_mapping(experience._asdict())
        if (
            isinstance(experience, Sequence)
            and experience
            and all(isinstance(e, (Trajectory, Experience)) for e in experience)
        ):
            return join([of_trajectory(e) if isinstance(e, Trajectory) else e for e in experience], self, self.n_outer)
        if isinstance(experience, tuple) and len(experience) == 2:
            return Experience(*experience)
        raise DataError(
            expected="experience: an Experience, a dictionary with `obs` and `acts`, trajectories or transitions",
            got=f"{type(experience).__name__}: input type not supported",
            do="pass Experience(obs, acts)",
        )

    def _outer(self, obs: list[Tensor], acts: list[Tensor]) -> tuple[int, ...]:
        named = [
            *_with_spaces("obs", obs, self.observation_space),
            *_with_spaces("acts", acts, self.action_space),
        ]
        first = tuple(named[0][1].shape[: self.n_outer])
        fits = len(first) == self.n_outer and all(tuple(t.shape) == (*first, *shape) for _, t, shape in named)
        if not fits:
            number = "one outer dimension, (batch,)" if self.n_outer == 1 else "two outer dimensions, (batch, time)"
            other = 3 - self.n_outer
            shown = "; ".join(f"{name}: {tuple(t.shape)} for an element of shape {shape}" for name, t, shape in named)
            may = all(t.dim() == other + len(shape) for _, t, shape in named)
            raise DataError(
                expected=f"all tensors with the same {number}",
                got=shown,
                do=f"make the agent with num_outer_dims={other}" if may else "compare these shapes with the spaces",
            )
        if 0 in first:
            raise EmptyDataError(
                expected="at least one element", got=f"shape {first}", do="check where batches are cut"
            )
        return first

    def _flags(self, name: str, value: Any, outer: tuple[int, ...]) -> Tensor | None:
        if value is None:
            return None
        flags = (value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))).to(self.device)
        if tuple(flags.shape) != outer:
            raise DataError(
                expected=f"`{name}` of shape {outer}",
                got=f"shape {tuple(flags.shape)}",
                do=f"give one flag for each element, or leave `{name}` out",
            )
        return flags.bool()


def _with_spaces(name: str, parts: list[Tensor], space: gym.Space[Any]) -> list[tuple[str, Tensor, tuple[int, ...]]]:
    return [
        (f"{name}{path}", part, tuple(sub.shape or ()))
        for part, (path, sub) in zip(parts, leaf_spaces(space), strict=True)
    ]


def of_trajectory(trajectory: Trajectory) -> Experience:
    """The steps of one trajectory, outer axis ``time``; the last observation, where nothing was done, is left out."""
    obs: Any = maybe_unwrap_dictobs(trajectory.obs[:-1])
    starts = np.zeros(len(trajectory), dtype=bool)
    starts[0] = True
    return Experience(obs, trajectory.acts, starts)


_NAMES = {
    "obs": ("obs", "observation"),
    "acts": ("acts", "action"),
    "episode_start": ("episode_start", "episode_starts"),
}


def _of_mapping(mapping: Mapping[str, Any]) -> Experience:
    """By name; ``step_type`` (0 first, 1 middle, 2 last) is understood as well. Other entries are left out."""
    found: dict[str, Any] = {name: mapping.get(name) for name in ("boundary", "padding", "burn_in")}
    for name, aliases in _NAMES.items():
        found[name] = next((mapping[alias] for alias in aliases if mapping.get(alias) is not None), None)
    if mapping.get("step_type") is not None:
        step_type = (
            mapping["step_type"] if isinstance(mapping["step_type"], Tensor) else np.asarray(mapping["step_type"])
        )
        if found["episode_start"] is None:
            found["episode_start"] = step_type == 0
        if found["boundary"] is None:
            found["boundary"] = step_type == 2
    missing = [name for name in ("obs", "acts") if found[name] is None]
    if missing:
        raise DataError(
            expected="a mapping with `obs` and `acts`", got=f"{list(mapping)}", do=f"add {', '.join(missing)}"
        )
    return Experience(**found)


def join(episodes: Iterable[Experience], reader: Reader, n_outer: int) -> Experience:
    """Episodes with the outer axis ``time`` as one: laid end to end, or side by side and padded to the longest.

    Side by side, what follows burn-in begins in the same column.

    Args:
        episodes: of any lengths.
        reader: knows the spaces.
        n_outer: 1 lays them end to end, outer axis ``batch``; 2 side by side, outer axes ``batch time``.
    """
    single = dataclasses.replace(reader, n_outer=1)
    read = [single.read(episode) for episode in episodes]
    lengths = [n_elements(e) for e in read]
    burnt = [0 if e.burn_in is None else int(e.burn_in.sum()) for e in read]
    before = [max(burnt) - n for n in burnt]

    def joined(parts: list[Tensor]) -> Tensor:
        if n_outer == 1:
            return torch.cat(parts)
        shifted = [torch.cat([p.new_zeros(n, *p.shape[1:]), p]) for p, n in zip(parts, before, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(shifted, batch_first=True)

    def column(nests: list[Nest], space: gym.Space[Any]) -> Nest:
        parts = [leaves(nest, space, "") for nest in nests]
        return nest_like(space, [joined(list(of_leaf)) for of_leaf in zip(*parts, strict=True)])

    def flags(values: list[Tensor | None], default: bool) -> Tensor:
        filled = []
        for value, length in zip(values, lengths, strict=True):
            if value is None:
                value = torch.zeros(length, dtype=torch.bool, device=reader.device)
                value[0] = default
            filled.append(value)
        return joined(filled)

    boundary = None
    if any(e.boundary is not None for e in read):
        boundary = flags([e.boundary for e in read], False)
    padding = flags([e.padding for e in read], False) if any(e.padding is not None for e in read) else None
    first = torch.tensor(before, device=reader.device)[:, None]
    last = first + torch.tensor(lengths, device=reader.device)[:, None]
    if n_outer == 2 and (len(set(last.flatten().tolist())) > 1 or any(before)):
        steps = torch.arange(int(last.max()), device=reader.device)
        absent = (steps < first) | (steps >= last)
        padding = absent if padding is None else padding | absent
    return Experience(
        column([e.obs for e in read], reader.observation_space),
        column([e.acts for e in read], reader.action_space),
        flags([e.episode_start for e in read], True),
        boundary,
        padding,
        flags([e.burn_in for e in read], False) if any(burnt) else None,
    )


def n_elements(experience: Experience) -> int:
    """Size of the first outer axis of experience that was read."""
    return len(first_part(experience.acts))


def first_part(value: Nest) -> Tensor:
    """The first tensor of a nest."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    return value


def pick(experience: Experience, rows: Any) -> Experience:
    """Some elements of the first outer axis, or a slice of it."""
    return Experience(*[map_nest(lambda t: t[rows], field) for field in experience])
