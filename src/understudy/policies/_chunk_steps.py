"""One step of a chunk for each kind of action: what outputs mean, what chunks are joined in, and how an action is
chosen.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor

from understudy.errors import UnsupportedSpaceError
from understudy.functional import chunks, cloning
from understudy.functional.cloning import HeadTerms


class Steps(Protocol):
    """Outputs have the shape (batch, step, output), targets (batch, step, part)."""

    @property
    def n_outputs(self) -> int:
        """Outputs of one step."""

    @property
    def n_parts(self) -> int:
        """Entries of one step's action."""

    def terms(self, outputs: Tensor, targets: Tensor, std: Tensor) -> tuple[HeadTerms, Tensor]:
        """Log-likelihood and entropy of each step, (batch, step), and where the target is known, (batch, step)."""

    def gradient(
        self, outputs: Tensor, targets: Tensor, std: Tensor, ent_weight: float, scale: Tensor | float
    ) -> tuple[Tensor, Tensor | None]:
        """Of Σ scale · (−log π − λ H) over known steps by the outputs, and by the deviations where there are any."""

    def values(self, outputs: Tensor) -> Tensor:
        """What can be averaged over chunks, in the shape of the outputs: probabilities, or means."""

    def choose(self, values: Tensor, std: Tensor, deterministic: bool) -> Tensor:
        """Actions (env, part), counted from 0, from averaged values (env, output)."""

    def distribution(self, kind: Any, outputs: Tensor, std: Tensor) -> Any:
        """Stable-Baselines3's distribution of one step, outputs (batch, output)."""


class _Numbers:
    def __init__(self, size: int) -> None:
        self.n_outputs = self.n_parts = size

    def terms(self, outputs: Tensor, targets: Tensor, std: Tensor) -> tuple[HeadTerms, Tensor]:
        known = ~targets.isnan().any(-1)
        return chunks.gaussian_steps(outputs, std, targets.nan_to_num(0.0)), known

    def gradient(
        self, outputs: Tensor, targets: Tensor, std: Tensor, ent_weight: float, scale: Tensor | float
    ) -> tuple[Tensor, Tensor | None]:
        counts = (~targets.isnan().any(-1)).to(outputs.dtype) * scale
        return chunks.gaussian_steps_gradient(outputs, std, targets.nan_to_num(0.0), ent_weight, counts)

    def values(self, outputs: Tensor) -> Tensor:
        return outputs

    def choose(self, values: Tensor, std: Tensor, deterministic: bool) -> Tensor:
        return values if deterministic else torch.addcmul(values, std, torch.randn_like(values))

    def distribution(self, kind: Any, outputs: Tensor, std: Tensor) -> Any:
        return kind.proba_distribution(outputs, std.log())


class _Choices:
    """One choice or several."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self.n_outputs = sum(sizes)
        self.n_parts = len(sizes)

    def terms(self, outputs: Tensor, targets: Tensor, std: Tensor) -> tuple[HeadTerms, Tensor]:
        known = (targets >= 0).all(-1)
        found = cloning.multi_categorical(outputs.flatten(0, 1), targets.clamp(min=0).flatten(0, 1), self._sizes)
        return HeadTerms(*(term.reshape(known.shape) for term in found)), known

    def gradient(
        self, outputs: Tensor, targets: Tensor, std: Tensor, ent_weight: float, scale: Tensor | float
    ) -> tuple[Tensor, Tensor | None]:
        counts = ((targets >= 0).all(-1).to(outputs.dtype) * scale).reshape(-1, 1)
        rows = (outputs.flatten(0, 1), targets.clamp(min=0).flatten(0, 1))
        return cloning.multi_categorical_gradient(*rows, ent_weight, counts, self._sizes).view_as(outputs), None

    def values(self, outputs: Tensor) -> Tensor:
        return torch.cat([part.softmax(-1) for part in outputs.split(self._sizes, -1)], -1)

    def choose(self, values: Tensor, std: Tensor, deterministic: bool) -> Tensor:
        parts = values.split(self._sizes, -1)
        chosen = [part.argmax(-1) if deterministic else torch.multinomial(part, 1)[:, 0] for part in parts]
        return torch.stack(chosen, -1)

    def distribution(self, kind: Any, outputs: Tensor, std: Tensor) -> Any:
        return kind.proba_distribution(action_logits=outputs)


class _Bits:
    def __init__(self, size: int) -> None:
        self.n_outputs = self.n_parts = size

    def terms(self, outputs: Tensor, targets: Tensor, std: Tensor) -> tuple[HeadTerms, Tensor]:
        known = ~targets.isnan().any(-1)
        found = cloning.bernoulli(outputs.flatten(0, 1), targets.nan_to_num(0.0).flatten(0, 1))
        return HeadTerms(*(term.reshape(known.shape) for term in found)), known

    def gradient(
        self, outputs: Tensor, targets: Tensor, std: Tensor, ent_weight: float, scale: Tensor | float
    ) -> tuple[Tensor, Tensor | None]:
        counts = ((~targets.isnan().any(-1)).to(outputs.dtype) * scale).reshape(-1, 1)
        rows = (outputs.flatten(0, 1), targets.nan_to_num(0.0).flatten(0, 1))
        return cloning.bernoulli_gradient(*rows, ent_weight, counts).view_as(outputs), None

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def choose(self, values: Tensor, std: Tensor, deterministic: bool) -> Tensor:
        threshold = torch.full_like(values, 0.5) if deterministic else torch.rand_like(values)
        return (values > threshold).to(torch.int64)

    def distribution(self, kind: Any, outputs: Tensor, std: Tensor) -> Any:
        return kind.proba_distribution(action_logits=outputs)


def steps_for(space: gym.Space[Any]) -> Steps:
    """How one step's action is predicted.

    Raises:
        UnsupportedSpaceError: none of Box, Discrete, MultiDiscrete, MultiBinary.
    """
    if isinstance(space, spaces.Box):
        return _Numbers(math.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return _Choices([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return _Choices([int(n) for n in space.nvec.reshape(-1)])
    if isinstance(space, spaces.MultiBinary):
        return _Bits(math.prod(space.shape))
    raise UnsupportedSpaceError(
        expected="an action space of Box, Discrete, MultiDiscrete or MultiBinary for ChunkingPolicy",
        got=str(space),
        do="flatten nested actions with a wrapper",
    )
