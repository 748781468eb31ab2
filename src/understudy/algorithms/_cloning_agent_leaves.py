"""One part of an action: what a network's output means for it, its loss, and its most likely, sampled or random value.

An output is a tensor (logits for choices and bits, the action itself for values) or a distribution: anything with
``log_prob``, ``sample`` and ``mode``, of torch's, Stable-Baselines3's or the user's own. Distributions over choices
count from 0, whatever the space says.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from understudy.errors import ConfigError, DataError, NonFiniteDataError, UnsupportedSpaceError
from understudy.functional.cloning_nests import bits_error, choice_error, choices_error, surprise, values_error


def is_distribution(output: Any) -> bool:
    """Whether a network's output is a distribution rather than a tensor."""
    return not isinstance(output, Tensor) and hasattr(output, "log_prob") and hasattr(output, "sample")


@dataclasses.dataclass(frozen=True)
class LossKind:
    """How distributions over values are compared with the expert's."""

    continuous: str
    """"log_likelihood", "mse_of_sample" or "mse_of_mode"."""


class Leaf(Protocol):
    """One part of an action."""

    @property
    def where(self) -> str:
        """Where it stands in the action space."""

    @property
    def space(self) -> gym.Space[Any]:
        """Its space."""

    def loss(self, output: Any, acts: Tensor, kind: LossKind) -> Tensor:
        """Error of each element, shape (*outer), for ``acts`` of shape (*outer, *act)."""

    def acts(self, output: Any, outer: tuple[int, ...], greedy: bool) -> Tensor:
        """Actions in the environment's values, shape (*outer, *act); most likely or sampled."""

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Random actions, all alike likely, shape (n, *act)."""


def leaf(where: str, space: gym.Space[Any]) -> Leaf:
    """The leaf for a space without parts.

    Raises:
        UnsupportedSpaceError: none of Box, Discrete, MultiDiscrete and MultiBinary.
    """
    if isinstance(space, spaces.Discrete):
        return Choice(where, space, int(space.start), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        starts = [int(start) for start in np.ravel(space.start)]
        return Choices(where, space, starts, [int(n) for n in np.ravel(space.nvec)])
    if isinstance(space, spaces.MultiBinary):
        return Bits(where, space)
    if isinstance(space, spaces.Box):
        if space.dtype.kind in "iu" and space.shape == ():
            return Choice(where, space, int(space.low), int(space.high) - int(space.low) + 1)
        return Values(where, space)
    raise UnsupportedSpaceError(
        expected=f"Box, Discrete, MultiDiscrete or MultiBinary at action_space{where}",
        got=str(space),
        do="nest such spaces in Dict and Tuple, or flatten the actions with a wrapper",
    )


def is_continuous(space: gym.Space[Any]) -> bool:
    """Whether a space without parts holds fractions."""
    return bool(space.dtype is not None and np.dtype(space.dtype).kind == "f")


def _logits(output: Any, outer: tuple[int, ...], n: int, where: str) -> Tensor:
    """The logits that an output is or has, shape (*outer, n)."""
    logits = output.logits if is_distribution(output) and hasattr(output, "logits") else output
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (*outer, n):
        raise ConfigError(
            expected=f"logits of shape {(*outer, n)} from the network for action_space{where}",
            got=_described(logits),
            do="give the network one output an option, or pass a loss_fn of your own",
        )
    return logits


def _logits_to_act_by(output: Any, outer: tuple[int, ...], n: int, where: str) -> Tensor:
    """As `_logits`; the largest of NaNs would be an index like any other.

    Raises:
        NonFiniteDataError: NaN among them.
    """
    logits = _logits(output, outer, n, where)
    if bool(logits.isnan().any()):
        raise not_a_number(where)
    return logits


def not_a_number(where: str) -> NonFiniteDataError:
    """What to raise where the network's outputs are NaN."""
    return NonFiniteDataError(
        expected=f"finite outputs of the network for action_space{where}",
        got="NaN",
        do="check its parameters (did training diverge?) and the observations it is given",
    )


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, torch.distributions.Distribution):
        return f"{type(output).__name__} of shape {tuple(output.batch_shape + output.event_shape)}"
    return type(output).__name__


def _mode(distribution: Any, where: str) -> Tensor:
    """The most likely value.

    Raises:
        ConfigError: the distribution has none.
    """
    try:
        mode = distribution.mode
        return mode() if callable(mode) else mode  # type: ignore[no-any-return]
    except (NotImplementedError, AttributeError) as err:
        raise ConfigError(
            expected=f"a distribution with a mode for action_space{where}: the greedy policy takes it",
            got=f"{type(distribution).__name__}, which does not implement mode",
            do="give it a `mode` in a subclass, or act with collect_policy, which samples",
        ) from err


def _checked(indices: Tensor, n: int, start: int, where: str) -> None:
    if bool(((indices < 0) | (indices >= n)).any()):
        outside = indices[(indices < 0) | (indices >= n)][0].item() + start
        raise DataError(
            expected=f"actions in {start} … {start + n - 1} for action_space{where}",
            got=str(outside),
            do="correct the demonstrations, or give such steps a weight of zero",
        )


@dataclasses.dataclass(frozen=True)
class Choice:
    """One choice among n: Discrete, or a scalar Box of whole numbers."""

    where: str
    space: gym.Space[Any]
    start: int
    n: int

    def loss(self, output: Any, acts: Tensor, kind: LossKind) -> Tensor:
        acts = acts.long()
        _checked(acts - self.start, self.n, self.start, self.where)
        if is_distribution(output) and not hasattr(output, "logits"):
            return surprise(output.log_prob(acts - self.start), acts.dim())
        return choice_error(_logits(output, tuple(acts.shape), self.n, self.where), acts, self.start)

    def acts(self, output: Any, outer: tuple[int, ...], greedy: bool) -> Tensor:
        if is_distribution(output) and not hasattr(output, "logits"):
            return (_mode(output, self.where) if greedy else output.sample()).reshape(outer) + self.start
        logits = _logits_to_act_by(output, outer, self.n, self.where)
        chosen = logits.argmax(-1) if greedy else torch.distributions.Categorical(logits=logits).sample()
        return chosen + self.start

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return torch.randint(self.start, self.start + self.n, (n,)).to(device)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Several independent choices: MultiDiscrete; logits side by side."""

    where: str
    space: gym.Space[Any]
    starts: list[int]
    sizes: list[int]

    def loss(self, output: Any, acts: Tensor, kind: LossKind) -> Tensor:
        outer = tuple(acts.shape[: acts.dim() - len(_shape(self.space))])
        acts = acts.long().reshape(*outer, len(self.sizes))
        for i, (start, n) in enumerate(zip(self.starts, self.sizes, strict=True)):
            _checked(acts[..., i] - start, n, start, self.where)
        if is_distribution(output) and not hasattr(output, "logits"):
            return surprise(output.log_prob(acts - acts.new_tensor(self.starts)), len(outer))
        return choices_error(_logits(output, outer, sum(self.sizes), self.where), acts, self.starts, self.sizes)

    def acts(self, output: Any, outer: tuple[int, ...], greedy: bool) -> Tensor:
        if is_distribution(output) and not hasattr(output, "logits"):
            chosen = _mode(output, self.where) if greedy else output.sample()
        else:
            parts = _logits_to_act_by(output, outer, sum(self.sizes), self.where).split(self.sizes, -1)
            sample = torch.distributions.Categorical
            picked = [part.argmax(-1) if greedy else sample(logits=part).sample() for part in parts]
            chosen = torch.stack(picked, -1)
        return (chosen + chosen.new_tensor(self.starts)).reshape(*outer, *_shape(self.space))

    def uniform(self, n: int, device: torch.device) -> Tensor:
        limits = zip(self.starts, self.sizes, strict=True)
        columns = [torch.randint(start, start + size, (n,)) for start, size in limits]
        return torch.stack(columns, -1).reshape(n, *_shape(self.space)).to(device)


@dataclasses.dataclass(frozen=True)
class Bits:
    """Independent bits: MultiBinary; one logit each."""

    where: str
    space: gym.Space[Any]

    def loss(self, output: Any, acts: Tensor, kind: LossKind) -> Tensor:
        outer = tuple(acts.shape[: acts.dim() - len(_shape(self.space))])
        if is_distribution(output) and not hasattr(output, "logits"):
            return surprise(output.log_prob(acts.float()), len(outer))
        logits = self._flat(output, outer)
        return bits_error(logits, acts.to(logits.dtype).reshape(logits.shape))

    def acts(self, output: Any, outer: tuple[int, ...], greedy: bool) -> Tensor:
        shape = (*outer, *_shape(self.space))
        if is_distribution(output) and not hasattr(output, "logits"):
            return (_mode(output, self.where) if greedy else output.sample()).reshape(shape)
        logits = self._flat(output, outer)
        if bool(logits.isnan().any()):
            raise not_a_number(self.where)
        ones = logits > 0 if greedy else torch.rand_like(logits) < torch.sigmoid(logits)
        return ones.reshape(shape)

    def _flat(self, output: Any, outer: tuple[int, ...]) -> Tensor:
        n = math.prod(_shape(self.space))
        logits = output.logits if is_distribution(output) else output
        if isinstance(logits, Tensor) and tuple(logits.shape) == (*outer, *_shape(self.space)):
            logits = logits.reshape(*outer, n)
        return _logits(logits, outer, n, self.where)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return torch.randint(0, 2, (n, *_shape(self.space))).to(device)


@dataclasses.dataclass(frozen=True)
class Values:
    """Numbers: Box. A tensor is the action itself."""

    where: str
    space: gym.Space[Any]

    def loss(self, output: Any, acts: Tensor, kind: LossKind) -> Tensor:
        n_outer = acts.dim() - len(_shape(self.space))
        if not is_distribution(output):
            return values_error(self._fitted(output, tuple(acts.shape)), acts.to(output.dtype), n_outer)
        self._check(output, tuple(acts.shape))
        if kind.continuous == "log_likelihood":
            return surprise(output.log_prob(acts), n_outer)
        if kind.continuous == "mse_of_mode":
            return values_error(_mode(output, self.where), acts, n_outer)
        if not getattr(output, "has_rsample", hasattr(output, "rsample")):
            raise ConfigError(
                expected="a distribution whose samples pass gradients on (rsample) for 'mse_of_sample'",
                got=type(output).__name__,
                do="use continuous_loss='log_likelihood'",
            )
        return values_error(output.rsample(), acts, n_outer)

    def acts(self, output: Any, outer: tuple[int, ...], greedy: bool) -> Tensor:
        shape = (*outer, *_shape(self.space))
        if is_distribution(output):
            self._check(output, shape)
            values = (_mode(output, self.where) if greedy else output.sample()).reshape(shape)
        else:
            values = self._fitted(output, shape)
        box = self.space
        assert isinstance(box, spaces.Box)
        if box.dtype.kind in "iu":
            values = values.round()
        wide = torch.float64 if values.dtype == torch.float64 or box.dtype.kind in "iu" else torch.float32
        low, high = (torch.as_tensor(bound.astype(np.float64), dtype=wide) for bound in (box.low, box.high))
        return torch.clamp(values.to(wide), low.to(values.device), high.to(values.device))

    def uniform(self, n: int, device: torch.device) -> Tensor:
        box = self.space
        assert isinstance(box, spaces.Box)
        whole = box.dtype.kind in "iu"
        low, high = box.low.astype(np.float64), box.high.astype(np.float64) + whole
        drawn = torch.as_tensor(low) + torch.rand(n, *box.shape, dtype=torch.float64) * torch.as_tensor(high - low)
        return (drawn.floor() if whole else drawn).to(device)

    def _fitted(self, output: Any, shape: tuple[int, ...]) -> Tensor:
        same_size = isinstance(output, Tensor) and output.numel() == math.prod(shape)
        if not same_size or output.shape[0] != shape[0]:
            raise self._misfit(output, shape)
        return output.reshape(shape)  # type: ignore[no-any-return]

    def _check(self, output: Any, shape: tuple[int, ...]) -> None:
        """A distribution of another shape would be spread over the actions without a word."""
        known = isinstance(output, torch.distributions.Distribution)
        if known and tuple(output.batch_shape + output.event_shape) != shape:
            raise self._misfit(output, shape)

    def _misfit(self, output: Any, shape: tuple[int, ...]) -> ConfigError:
        return ConfigError(
            expected=f"a tensor or distribution of shape {shape} from the network for action_space{self.where}",
            got=_described(output),
            do="give the network one output for each entry of the action",
        )


def _shape(space: gym.Space[Any]) -> tuple[int, ...]:
    return space.shape or ()
