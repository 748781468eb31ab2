"""Sequences cut from episodes: every step is learned from once, and burn-in is the steps before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import serialize
from understudy.data._mapped import MappedDemonstrations
from understudy.data.demonstrations import Demonstrations, as_demonstrations
from understudy.data.sequences import SequenceBatch, SequenceBatches, cut_episodes, padded, step_mask
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import Trajectory
from understudy.errors import ConfigError, DataError, EmptyDataError

CPU = torch.device("cpu")


def episodes(*lengths: int) -> list[Trajectory]:
    """Step ``t`` of episode ``e`` shows ``100 e + t`` and is answered with that number."""
    found = []
    for e, n in enumerate(lengths):
        numbers = 100 * e + np.arange(n + 1)
        found.append(Trajectory(numbers[:, None].astype(np.float32), numbers[:-1], None, terminal=True))
    return found


def demos_of(*lengths: int, **columns: Any) -> Demonstrations:
    demos = as_demonstrations(episodes(*lengths))
    assert isinstance(demos, Demonstrations)
    for name, value in columns.items():
        object.__setattr__(demos, name, value)
    return demos


def batches(demos: Demonstrations, size: int = 8, seed: int | None = None, **options: Any) -> SequenceBatches:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return SequenceBatches(demos, size, **{"sequence_length": 4, "device": CPU, "generator": generator, **options})


def shown(batch: SequenceBatch) -> list[tuple[list[int], list[int]]]:
    """(burn-in, sequence) of each."""
    assert isinstance(batch.obs, torch.Tensor)
    before = torch.empty(0, 1) if batch.burn_in_obs is None else batch.burn_in_obs
    assert isinstance(before, torch.Tensor)
    pairs = zip(before.split(list(batch.burn_in)), batch.obs.split(list(batch.lengths)), strict=True)
    return [(a.flatten().int().tolist(), b.flatten().int().tolist()) for a, b in pairs]


def test_cuts_worked_out_by_hand() -> None:
    cuts = cut_episodes(demos_of(10, 3), np.array([0, 1]), 4, 6)
    assert cuts.starts.tolist() == [0, 4, 8, 10]
    assert cuts.stops.tolist() == [4, 8, 10, 13]
    assert cuts.burn_in.tolist() == [0, 4, 6, 0]
    whole = cut_episodes(demos_of(10, 3), np.array([1, 0]), None, 6)
    assert (whole.starts.tolist(), whole.stops.tolist(), whole.burn_in.tolist()) == ([10, 0], [13, 10], [0, 0])


def test_a_batch_is_sequences_with_the_steps_before_them() -> None:
    [batch, rest] = batches(demos_of(10, 3), burn_in=2, sequences=3).epoch()
    assert shown(batch) == [([], [0, 1, 2, 3]), ([2, 3], [4, 5, 6, 7]), ([6, 7], [8, 9])]
    assert batch.acts.tolist() == [*range(10)]
    assert len(batch) == 10
    assert shown(rest) == [([], [100, 101, 102])]
    assert rest.burn_in_obs is None


@pytest.mark.parametrize("burn_in", [0, 3])
def test_every_step_is_learned_from_once_an_epoch(burn_in: int) -> None:
    source = batches(demos_of(10, 3, 9, 1), seed=0, burn_in=burn_in)
    found = list(source.epoch())
    assert len(found) == len(source) == 3  # 8 sequences have 23 steps, so three of them have about 8
    acts = torch.cat([batch.acts for batch in found])
    assert sorted(acts.tolist()) == sorted([*range(10), *range(100, 103), *range(200, 209), 300])
    assert source.n_rows == len(acts) == 23


def test_batch_size_is_steps_and_at_least_one_sequence() -> None:
    assert batches(demos_of(40), 8).sequences_per_batch == 2
    assert batches(demos_of(40), 1).sequences_per_batch == 1
    assert batches(demos_of(40), 1000, sequence_length=None).sequences_per_batch == 25
    assert len(batches(demos_of(40), 1000, sequence_length=None)) == 1


def test_the_order_is_the_generators_and_a_pass_can_be_entered_in_the_middle() -> None:
    demos = demos_of(30, 17, 9)
    first, again, other = ([b.acts.tolist() for b in batches(demos, seed=seed).epoch()] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [b.acts.tolist() for b in batches(demos, seed=1).epoch(3)] == first[3:]


def test_steps_of_weight_zero_are_seen_and_not_learned_from() -> None:
    weights = np.array([1, 0, 2, 1, 0, 0, 0, 0, 1, 0], np.float32)
    source = batches(demos_of(10, weights=weights), burn_in=4, sequences=8)
    [batch] = source.epoch()
    assert shown(batch) == [([], [0, 1, 2, 3]), ([4, 5, 6, 7], [8, 9])]  # nothing is learned from 4 … 7
    assert batch.acts.tolist() == [0, 2, 3, 8]
    assert batch.weights is not None
    assert batch.weights.tolist() == [1, 2, 1, 1]
    assert source.n_rows == 4
    one, two = batch.split(1)
    assert (one.acts.tolist(), two.acts.tolist()) == ([0, 2, 3], [8])
    assert (one.learned.tolist(), two.learned.tolist()) == ([True, False, True, True], [True, False])  # type: ignore[union-attr]


def test_a_batch_is_split_between_sequences() -> None:
    [batch] = batches(demos_of(10, 3), burn_in=2, sequences=9).epoch()
    parts = list(batch.split(5))
    assert [shown(part) for part in parts] == [shown(batch)[:2], shown(batch)[2:]]
    assert [len(part) for part in parts] == [8, 5]
    assert list(batch.split(99)) == [batch]


def test_chosen_episodes_only() -> None:
    found = [shown(b) for b in batches(demos_of(5, 2, 3), episodes=np.array([0, 2]), sequences=1).epoch()]
    assert found == [[([], [0, 1, 2, 3])], [([], [4])], [([], [200, 201, 202])]]


def test_data_in_a_file_gives_the_same_batches(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", episodes(30, 17, 9))
    store = serialize.load(tmp_path / "data")
    assert isinstance(store, TrajectoryStore)
    mapped = MappedDemonstrations(list(store.chunks()))
    pairs = zip(
        batches(mapped, seed=1, burn_in=3).epoch(), batches(demos_of(30, 17, 9), seed=1, burn_in=3).epoch(), strict=True
    )
    for there, here in pairs:
        assert shown(there) == shown(here)
        assert torch.equal(there.acts, here.acts)


def test_rows_side_by_side() -> None:
    mask = step_mask([1, 3], CPU)
    assert mask.tolist() == [[True, False, False], [True, True, True]]
    assert padded(torch.tensor([5.0, 1, 2, 3]), mask).tolist() == [[5, 0, 0], [1, 2, 3]]


def test_what_cannot_be_cut_is_refused() -> None:
    arrays = {"obs": np.zeros((5, 1), np.float32), "acts": np.zeros(5, np.int64)}
    unknown = as_demonstrations(arrays)
    assert isinstance(unknown, Demonstrations)
    with pytest.raises(DataError, match="where episodes begin"):
        batches(unknown)
    with pytest.raises(ConfigError, match="sequence_length"):
        batches(demos_of(5), sequence_length=0)
    with pytest.raises(ConfigError, match="burn_in"):
        batches(demos_of(5), burn_in=-1)
    with pytest.raises(EmptyDataError):
        batches(demos_of(5, weights=np.zeros(5, np.float32)))
