"""The loader of Stable-Baselines 2: passes, their ends, and what is left out."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from understudy.data.stable_baselines import DataLoader
from understudy.errors import ConfigError, DataError, EmptyDataError

OBS = np.arange(20.0).reshape(10, 2)
ACTS = np.arange(10)[:, None]


def loader(indices: Any = range(10), batch_size: int = 5, **options: Any) -> DataLoader:
    return DataLoader(np.array(indices), OBS, ACTS, batch_size, **options)


def rows(batch: tuple[np.ndarray, np.ndarray]) -> list[int]:
    obs, acts = batch
    np.testing.assert_array_equal(obs, OBS[acts[:, 0]])
    return acts[:, 0].tolist()


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("start_process", [True, False])
def test_a_pass_that_divides_has_no_empty_batch_after_it(sequential: bool, start_process: bool) -> None:
    batches = loader(sequential=sequential, start_process=start_process)
    batches.start_process()
    for _ in range(3):
        assert [rows(batch) for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_each_pass_ends_with_one_stop() -> None:
    batches = loader([7, 3, 1], 2)
    for _ in range(2):
        assert rows(next(batches)) == [7, 3]
        assert rows(batches.sequential_next()) == [1]
        with pytest.raises(StopIteration):
            next(batches)


def test_a_finite_loader_has_one_pass() -> None:
    batches = loader(infinite_loop=False)
    assert len(list(batches)) == 2
    assert list(batches) == []


def test_iterating_begins_at_the_beginning() -> None:
    batches = loader()
    next(batches)
    assert rows(next(iter(batches))) == [0, 1, 2, 3, 4]


def test_a_partial_batch_is_kept_or_left_out() -> None:
    assert [len(batch[1]) for batch in loader(batch_size=4)] == [4, 4, 2]
    whole = loader(batch_size=4, partial_minibatch=False)
    assert [len(batch[1]) for batch in whole] == [4, 4]
    assert (len(whole), whole.n_minibatches, len(loader(batch_size=4))) == (2, 2, 3)
    with pytest.raises(ConfigError, match="whole batch"):
        loader(batch_size=11, partial_minibatch=False)


def test_shuffled_passes_differ_and_hold_each_row_once() -> None:
    batches = loader(batch_size=3, shuffle=True, rng=np.random.default_rng(0))
    passes = [[row for batch in batches for row in rows(batch)] for _ in range(3)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3
    again = loader(batch_size=3, shuffle=True, rng=np.random.default_rng(0))
    assert [row for batch in again for row in rows(batch)] == passes[0]


def test_it_pickles_in_the_middle_of_a_pass() -> None:
    batches = loader(batch_size=3, shuffle=True)
    next(batches)
    again = pickle.loads(pickle.dumps(batches))
    assert [rows(next(batches)) for _ in range(3)] == [rows(next(again)) for _ in range(3)]


def test_arguments_for_processes_are_taken_and_none_is_started() -> None:
    for backend in ("multiprocessing", "sequential", "threading", "loky"):
        batches = loader(n_workers=4, max_queue_len=3, backend=backend, start_process=True)
        assert batches.process is None
        assert rows(next(batches)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"n_workers": 0}, ConfigError, "n_workers"),
        ({"max_queue_len": 0}, ConfigError, "max_queue_len"),
        ({"backend": "ray"}, ConfigError, "backend"),
        ({"indices": []}, EmptyDataError, "index"),
        ({"indices": [10]}, DataError, r"\[0, 10\)"),
        ({"indices": [-1]}, DataError, r"\[0, 10\)"),
        ({"indices": [0.5]}, DataError, "whole numbers"),
    ],
)
def test_what_cannot_be_loaded_is_refused(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        loader(**arguments)


def test_observations_and_actions_are_of_the_same_steps() -> None:
    with pytest.raises(DataError, match="10 and 9"):
        DataLoader(np.arange(9), OBS, ACTS[:9], 3)
