"""The one training loop of everything that clones.

A *source* gives shuffled chunks of batches, a *step* learns from one batch, and hooks look on. The loop counts,
reports progress, follows the learning-rate schedule, and every few hundred batches makes sure that all numbers are
finite, going back to the last good ones if not.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from understudy.data.batches import Batch, BatchSource
from understudy.errors import ConfigError, TrainingDivergedError

_GUARD_EVERY = 500
"""Batches between two checks for NaN: often enough to lose little, seldom enough to cost nothing."""

Schedule = Callable[[float], float]
"""Learning rate as a function of the progress remaining, which falls from 1 to 0 (as in Stable-Baselines3)."""


class Step(Protocol):
    """One way of learning from a batch."""

    def prepare(self, chunk: Batch) -> Batch:
        """What can be done to many batches at once."""

    def train(self, batch: Batch) -> None:
        """One optimiser step."""

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on."""

    def state(self) -> list[torch.Tensor]:
        """Everything a step changes, as tensors that can be copied back."""

    def refresh(self) -> None:
        """Called after code of the user's ran: make ready to train again, whatever it did."""


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where in the training a batch stands."""

    epoch: int
    """Whole passes before this one."""

    batch: int
    """Batches before this one."""

    samples: int
    """Samples up to and including this batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come, between two batches."""

    epoch: int = 0
    """Whole passes made."""

    batch: int = 0
    """Optimiser steps made."""

    samples: int = 0
    """Samples seen, repetitions counted."""

    batch_in_epoch: int = 0
    """Batches seen of the pass under way."""


class Legs(Protocol):
    """Cuts a training into legs that begin with fresh seeds, so that it can be resumed where any of them begins."""

    every: int
    """Batches in a leg."""

    def begin_epoch(self, epoch: int) -> None:
        """Decide the order of this pass, whatever happened before it."""

    def end_leg(self, progress: Progress) -> None:
        """Save, and seed the next leg."""

    @property
    def stop_asked(self) -> bool:
        """Whether the user asked to stop; read after each batch."""

    def stop(self, progress: Progress) -> None:
        """Save what there is, and raise."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Who looks on. All are optional."""

    log_interval: int = 500
    """Batches between two calls of the logging hooks, from the first batch on."""

    before_logged_batch: Callable[[Position, Batch], Any] | None = None
    """Measures the batch before the step; what it returns goes to ``log``."""

    log: Callable[[Position, Batch, Any], None] | None = None
    """Called after the step of a logged batch."""

    on_batch_end: Callable[[], None] | None = None
    """The user's callback after each step."""

    on_epoch_end: Callable[[int], bool] | None = None
    """After each whole pass, with its number; True stops the training."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a training did."""

    n_epochs: int
    """Whole passes made."""

    n_batches: int
    """Optimiser steps made."""

    n_samples: int
    """Samples seen, repetitions counted."""

    stopped_early: bool
    """A hook ended it before the budget was used up."""


def check_budget(n_epochs: int | None, n_batches: int | None) -> None:
    """Raise ConfigError unless exactly one of the two is given, and positive."""
    if (n_epochs is None) == (n_batches is None):
        raise ConfigError(
            expected="exactly one of `n_epochs` and `n_batches`",
            got="both" if n_epochs is not None else "neither",
            do="say how long to train, for example n_epochs=4",
        )
    name, budget = ("n_batches", n_batches) if n_epochs is None else ("n_epochs", n_epochs)
    if not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ConfigError(expected=f"`{name}` as a whole number ≥ 1", got=repr(budget), do=f"pass {name}=1 or more")


def fit(
    step: Step,
    source: BatchSource,
    *,
    n_epochs: int | None = None,
    n_batches: int | None = None,
    hooks: Hooks | None = None,
    schedule: Schedule | None = None,
    progress_bar: bool = False,
    description: str = "training",
    start: Progress | None = None,
    legs: Legs | None = None,
) -> FitResult:
    """Train until the budget is used up or a hook stops it.

    Args:
        step: learns from a batch.
        source: gives the batches.
        n_epochs: whole passes. Give exactly one of this and ``n_batches``.
        n_batches: optimiser steps.
        hooks: who looks on.
        schedule: learning rate from the progress remaining.
        progress_bar: show one, with the time left.
        description: beside the bar.
        start: where an earlier run stood, which counts towards the budget.
        legs: what saves now and then.

    Raises:
        ConfigError: not exactly one budget, or one below 1.
        TrainingDivergedError: a number became NaN or infinite; the parameters are the last finite ones.
    """
    check_budget(n_epochs, n_batches)
    hooks = hooks or Hooks()
    start = start or Progress()
    an_epoch = _length(source)
    total = n_batches if n_epochs is None else an_epoch and n_epochs * an_epoch
    guard = _Guard(step, start.batch)
    epoch, batch_number, samples, in_epoch = start.epoch, start.batch, start.samples, start.batch_in_epoch
    leg_began = batch_number
    stopped = False
    # A stream cannot be entered in the middle of a pass: there a leg lasts until the pass ends.
    cut_anywhere = source.chunk_batches is not None

    def remaining() -> float:
        return 1 - batch_number / total if total else 1 - epoch / (n_epochs or 1)

    bar = tqdm(
        total=total, initial=start.batch, desc=description, unit="batch", disable=not progress_bar, dynamic_ncols=True
    )
    with bar:
        for epoch in range(start.epoch, n_epochs) if n_epochs is not None else itertools.count(start.epoch):
            if legs is not None:
                legs.begin_epoch(epoch)
            for batch in _batches(step, source, in_epoch):
                samples += len(batch)
                if schedule is not None:
                    step.set_learning_rate(schedule(remaining()))
                if batch_number % hooks.log_interval:
                    step.train(batch)
                else:
                    _train_and_log(step, batch, Position(epoch, batch_number, samples), hooks)
                batch_number += 1
                in_epoch += 1
                if hooks.on_batch_end is not None:
                    hooks.on_batch_end()
                    step.refresh()
                if not batch_number % 50:
                    bar.update(batch_number - bar.n)
                if not batch_number % _GUARD_EVERY:
                    guard.check(batch_number)
                if legs is not None:
                    if cut_anywhere and batch_number - leg_began >= legs.every and batch_number != n_batches:
                        guard.check(batch_number)  # never save what is not finite
                        legs.end_leg(Progress(epoch, batch_number, samples, in_epoch))
                        leg_began = batch_number
                    if legs.stop_asked:
                        legs.stop(Progress(epoch, batch_number, samples, in_epoch))
                if batch_number == n_batches and (an_epoch is None or batch_number % an_epoch):
                    break
            else:
                # Only whole passes count, also when the budget ends in the middle of one. (A stream does not tell that
                # its last batch is the last.)
                epoch += 1
                in_epoch = 0
                guard.check(batch_number)
                if hooks.on_epoch_end is not None:
                    stopped = hooks.on_epoch_end(epoch - 1)
                    step.refresh()
                if stopped or batch_number == n_batches:
                    break
                if legs is not None and not cut_anywhere and batch_number - leg_began >= legs.every:
                    legs.end_leg(Progress(epoch, batch_number, samples))
                    leg_began = batch_number
                continue
            break
        bar.update(batch_number - bar.n)
        guard.check(batch_number)
    return FitResult(epoch, batch_number, samples, stopped)


def _length(source: BatchSource) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


def _batches(step: Step, source: BatchSource, first: int) -> Iterator[Batch]:
    """One pass from batch ``first`` on; chunks are cut where they are cut in a pass from the start."""
    skipped, left_out = divmod(first, source.chunk_batches) if source.chunk_batches is not None else (0, 0)
    for chunk in source.epoch(skipped):
        prepared = step.prepare(chunk)
        batches = iter([prepared]) if source.batch_size is None else prepared.split(source.batch_size)
        yield from itertools.islice(batches, left_out, None) if left_out else batches
        left_out = 0


def _train_and_log(step: Step, batch: Batch, position: Position, hooks: Hooks) -> None:
    measured = hooks.before_logged_batch(position, batch) if hooks.before_logged_batch else None
    step.train(batch)
    if hooks.log is not None:
        hooks.log(position, batch, measured)
        step.refresh()


class _Guard:
    """Keeps the last state known to be finite."""

    def __init__(self, step: Step, batch_number: int = 0) -> None:
        self._step = step
        self._good: list[torch.Tensor] = []
        self._checked_at = batch_number
        self.check(batch_number)

    def check(self, batch_number: int) -> None:
        state = self._step.state()
        # NaN and infinity survive a sum, so one number tells of a whole tensor.
        if state and not bool(torch.isfinite(torch.stack([t.sum().double() for t in state])).all()):
            for tensor, good in itertools.zip_longest(state, self._good):
                if good is None:  # an optimiser's moments, born since: as if it had made no step
                    tensor.zero_()
                elif tensor is not None:
                    tensor.copy_(good)
            raise TrainingDivergedError(
                expected="finite losses and parameters",
                got=f"NaN or infinity between batches {self._checked_at} and {batch_number}",
                do="lower the learning rate, clip gradients (max_grad_norm=1.0) or normalise the observations; "
                f"the parameters of batch {self._checked_at} have been put back",
            )
        self._good = [t.clone() for t in state]
        self._checked_at = batch_number
