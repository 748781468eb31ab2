"""A critic that knows the demonstrations before reinforcement learning begins.

On-policy: the value function is fitted to the demonstrations' discounted returns. Off-policy: Q of the expert's action
is fitted to them, and a margin keeps the expert's action the best one. Where a time limit cut an episode the return
goes on with the critic's own estimate, renewed a few times on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from understudy.algorithms._bc_checks import fused_where_possible
from understudy.algorithms._pretrain_data import Ends
from understudy.algorithms._pretrain_families import Family
from understudy.algorithms._pretrain_steps import trained_module
from understudy.algorithms._pretrain_values import (
    bowl_loss,
    critic_of,
    critic_only,
    margin_loss,
    output_layers,
    shift,
    value_loss,
    values_of,
)
from understudy.algorithms._supervised import fit
from understudy.data.batches import Batch, ResidentBatches
from understudy.data.demonstrations import Demonstrations
from understudy.data.sequences import SequenceBatches
from understudy.errors import ConfigError
from understudy.functional.pretraining import discounted_returns
from understudy.util.seeding import torch_generator

_RENEWALS = 10


@dataclasses.dataclass(frozen=True)
class CriticWarmup:
    """How the critic learns from the demonstrations."""

    n_epochs: int = 50
    """Passes over the demonstrations, ≥ 1."""

    learning_rate: float = 1e-3
    """Of the warm-up's own Adam."""

    batch_size: int = 64
    """Transitions to a step."""

    margin: float = 1.0
    """Off-policy only, ≥ 0, in standard deviations of the returns: how much worse another choice is taken to be, or an
    action at distance 1 (of the range [−1, 1]) from the expert's."""

    n_actions: int = 8
    """Continuous actions valued beside each of the expert's."""

    def __post_init__(self) -> None:
        if min(self.n_epochs, self.batch_size, self.n_actions) < 1 or self.learning_rate <= 0 or self.margin < 0:
            raise ConfigError(
                expected="CriticWarmup with counts ≥ 1, learning_rate > 0 and margin ≥ 0",
                got=str(self),
                do="CriticWarmup() has usable values",
            )


@dataclasses.dataclass(frozen=True)
class CriticReport:
    """What the warm-up reached, in squared units of (normalised) return."""

    loss_before: float
    """Mean squared error against the demonstrations' returns before."""

    loss_after: float
    """And after."""

    mean_return: float
    """Mean discounted return that it was fitted to."""


class _CriticStep:
    """A loss of packed batches (``acts`` holds the expert's action, then its return), by autograd."""

    def __init__(
        self,
        model: BaseAlgorithm,
        parameters: list[nn.Parameter],
        loss: Callable[[Batch, Tensor, Tensor], Tensor],
        wish: CriticWarmup,
    ) -> None:
        self._policy = model.policy
        self._parameters = parameters
        kwargs = fused_where_possible(torch.optim.Adam, {"lr": wish.learning_rate})
        self._optimizer = torch.optim.Adam(parameters, **kwargs)
        self._loss = loss

    def prepare(self, chunk: Batch) -> Batch:
        return chunk

    def train(self, batch: Batch) -> None:
        loss = self._loss(batch, batch.acts[:, :-1], batch.acts[:, -1].float())
        gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def set_learning_rate(self, value: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = float(value)

    def state(self) -> list[Tensor]:
        moments = [v for s in self._optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        return [t.detach() for t in (*self._parameters, *moments)]

    def refresh(self) -> None:
        # Evaluation mode: an extractor that the actor shares keeps its statistics.
        self._policy.set_training_mode(False)


def warm_up(
    model: BaseAlgorithm,
    family: Family,
    demos: Demonstrations,
    rews: np.ndarray,
    ends: Ends,
    wish: CriticWarmup,
    rng: np.random.Generator,
    progress_bar: bool,
) -> CriticReport:
    """Fit the critic; the actor is left as it is, except where Q-values are the actor.

    Args:
        model: whose critic learns.
        family: of its policy.
        demos: as the model's networks read them.
        rews: as the critic sees them, shape (transition,).
        ends: how episodes end.
        wish: how.
        rng: moved on.
        progress_bar: show one.
    """
    order, noise = torch_generator(rng), torch_generator(rng)
    model.policy.set_training_mode(False)
    sequences = family == "recurrent"
    source = _source_maker(demos, model.device, wish.batch_size, sequences, order)
    value = values_of(model, family)
    returns = _returns(model, demos, rews, ends, value, source)
    spread = max(float(returns.std()), 0.1 * abs(float(returns.mean())), 1e-3)
    if family in ("likelihood", "recurrent"):
        parameters = critic_only(model, family, demos)
        loss = value_loss(value)
    elif family == "actor":
        actors = {id(p) for p in trained_module(model, family).parameters()}
        parameters = [p for p in critic_of(model).parameters() if p.requires_grad and id(p) not in actors]
        loss = bowl_loss(model, wish.margin, wish.n_actions, spread, noise)
    else:
        parameters = [p for p in trained_module(model, family).parameters() if p.requires_grad]
        loss = margin_loss(model, family, wish.margin, spread)
    step = _CriticStep(model, parameters, loss, wish)
    before = _error(value, source, returns)
    rounds = min(_RENEWALS, wish.n_epochs) if ends.cut.any() else 1
    with _fixed(model):
        for n_epochs in _shares(wish.n_epochs, rounds):
            found = _evaluate(value, source(np.zeros((len(returns), 1)), False))
            shift(output_layers(model, family), float((returns - found).mean()))
            batches = source(np.concatenate([_flat_acts(demos), returns[:, None]], 1), True)
            fit(step, batches, n_epochs=n_epochs, progress_bar=progress_bar, description="critic")
            returns = _returns(model, demos, rews, ends, value, source)
    return CriticReport(before, _error(value, source, returns), float(returns.mean()))


def _shares(total: int, parts: int) -> Iterator[int]:
    for i in range(parts):
        yield total * (i + 1) // parts - total * i // parts


@contextlib.contextmanager
def _fixed(model: BaseAlgorithm) -> Iterator[None]:
    """No module keeps statistics while a critic learns."""
    model.policy.set_training_mode(False)
    try:
        yield
    finally:
        for parameter in model.policy.parameters():
            parameter.grad = None


def _flat_acts(demos: Demonstrations) -> np.ndarray:
    return np.asarray(demos.acts, dtype=np.float64).reshape(len(demos), -1)


Source = Callable[[np.ndarray, bool], ResidentBatches | SequenceBatches]


def _source_maker(
    demos: Demonstrations, device: torch.device, batch_size: int, sequences: bool, order: torch.Generator
) -> Source:
    def make(columns: np.ndarray, shuffled: bool) -> ResidentBatches | SequenceBatches:
        packed = dataclasses.replace(demos, acts=columns, weights=None)
        generator = order if shuffled else None
        size = batch_size if shuffled else max(1024, batch_size)
        if sequences:
            return SequenceBatches(packed, size, sequence_length=None, device=device, generator=generator)
        return ResidentBatches(packed, size, device=device, generator=generator)

    return make


def _all_batches(source: ResidentBatches | SequenceBatches) -> Iterator[Batch]:
    for chunk in source.epoch():
        yield from [chunk] if source.batch_size is None else chunk.split(source.batch_size)


def _evaluate(value: Callable[[Batch], Tensor], source: ResidentBatches | SequenceBatches) -> np.ndarray:
    with torch.no_grad():
        found = [value(batch).double().flatten().cpu() for batch in _all_batches(source)]
    return np.asarray(torch.cat(found).numpy())


def _error(value: Callable[[Batch], Tensor], source: Source, returns: np.ndarray) -> float:
    """Of the value of the policy's own choice, which after cloning is nearly the expert's."""
    found = _evaluate(value, source(np.zeros((len(returns), 1)), False))
    return float(np.square(found - returns).mean())


def _returns(
    model: BaseAlgorithm,
    demos: Demonstrations,
    rews: np.ndarray,
    ends: Ends,
    value: Callable[[Batch], Tensor],
    source: Source,
) -> np.ndarray:
    after = np.zeros(len(rews), dtype=np.float64)
    cut = np.flatnonzero(ends.cut)
    if len(cut):
        after[cut] = _values_after(model, demos, cut, value, source)
    gamma: float = model.gamma  # type: ignore[attr-defined]
    return np.asarray(discounted_returns(rews, ends.last, after, gamma))


def _values_after(
    model: BaseAlgorithm, demos: Demonstrations, cut: np.ndarray, value: Callable[[Batch], Tensor], source: Source
) -> np.ndarray:
    """The critic's value of what followed the cut; of the last observation where what followed is not known."""
    if isinstance(source(np.zeros((len(demos), 1)), False), SequenceBatches):
        return np.asarray(_evaluate(value, source(np.zeros((len(demos), 1)), False))[cut])
    if demos.next_frames is not None:
        frames, rows = demos.next_frames, cut
    elif demos.obs_rows is not None:
        frames, rows = demos.frames, demos.obs_rows[cut] + 1
    else:
        frames, rows = demos.frames, cut
    last = Demonstrations(frames[rows], None, np.zeros((len(cut), 1)), np.array([0, len(cut)]))
    return _evaluate(value, ResidentBatches(last, 1024, device=model.device, generator=None))
