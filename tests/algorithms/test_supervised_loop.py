"""The training loop, with a step that only counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from understudy.algorithms._supervised import FitResult, Hooks, Position, fit
from understudy.data.batches import Batch
from understudy.errors import ConfigError, TrainingDivergedError


class CountingStep:
    def __init__(self, bad_at: int | None = None) -> None:
        self.sizes: list[int] = []
        self.rates: list[float] = []
        self.refreshed = 0
        self.weight = torch.zeros(2)
        self._bad_at = bad_at

    def prepare(self, chunk: Batch) -> Batch:
        return chunk

    def train(self, batch: Batch) -> None:
        self.sizes.append(len(batch))
        self.weight += float("nan") if len(self.sizes) == self._bad_at else 1.0

    def set_learning_rate(self, value: float) -> None:
        self.rates.append(value)

    def state(self) -> list[torch.Tensor]:
        return [self.weight]

    def refresh(self) -> None:
        self.refreshed += 1


class Source:
    """63 rows in batches of 32, in one chunk an epoch."""

    batch_size: int | None = 32
    chunk_batches: int | None = 2

    def __len__(self) -> int:
        return 2

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        yield Batch(torch.zeros(63, 1), torch.zeros(63))


@pytest.mark.defect("B18")
def test_every_sample_is_seen_once_an_epoch() -> None:
    step = CountingStep()
    assert fit(step, Source(), n_epochs=3) == FitResult(3, 6, 189, False)
    assert step.sizes == [32, 31] * 3


def test_batches_end_in_the_middle_of_an_epoch_that_then_does_not_count() -> None:
    epochs: list[int] = []
    hooks = Hooks(on_epoch_end=lambda epoch: bool(epochs.append(epoch)))
    assert fit(CountingStep(), Source(), n_batches=5, hooks=hooks) == FitResult(2, 5, 158, False)
    assert epochs == [0, 1]


def test_a_hook_stops_the_training() -> None:
    result = fit(CountingStep(), Source(), n_epochs=10, hooks=Hooks(on_epoch_end=lambda epoch: epoch == 1))
    assert result == FitResult(2, 4, 126, True)


def test_logging_sees_the_first_batch_and_every_nth() -> None:
    seen: list[tuple[Position, int, str]] = []
    hooks = Hooks(
        log_interval=3,
        before_logged_batch=lambda position, batch: f"before {position.batch}",
        log=lambda position, batch, measured: seen.append((position, len(batch), measured)),
    )
    fit(CountingStep(), Source(), n_batches=7, hooks=hooks)
    assert seen == [
        (Position(0, 0, 32), 32, "before 0"),
        (Position(1, 3, 126), 31, "before 3"),
        (Position(3, 6, 221), 32, "before 6"),
    ]


def test_the_schedule_falls_from_one_to_zero() -> None:
    step = CountingStep()
    fit(step, Source(), n_epochs=2, schedule=lambda remaining: remaining)
    assert step.rates == [1.0, 0.75, 0.5, 0.25]


def test_training_mode_is_restored_after_each_callback() -> None:
    step = CountingStep()
    fit(step, Source(), n_batches=4, hooks=Hooks(on_batch_end=lambda: None))
    assert step.refreshed == 4


def test_nan_stops_the_run_with_the_last_good_weights() -> None:
    step = CountingStep(bad_at=5)
    with pytest.raises(TrainingDivergedError, match="between batches 4 and 6"):
        fit(step, Source(), n_epochs=10)
    assert step.weight.tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    "budget", [{}, {"n_epochs": 1.5}, {"n_epochs": 1, "n_batches": 1}, {"n_epochs": 0}, {"n_batches": -1}]
)
def test_exactly_one_positive_budget(budget: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        fit(CountingStep(), Source(), **budget)  # type: ignore[arg-type]


def test_batches_that_end_with_an_epoch_complete_it() -> None:
    epochs: list[int] = []
    hooks = Hooks(on_epoch_end=lambda epoch: bool(epochs.append(epoch)))
    assert fit(CountingStep(), Source(), n_batches=4, hooks=hooks) == FitResult(2, 4, 126, False)
    assert epochs == [0, 1]
