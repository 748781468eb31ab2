"""Batches show every row once, in the order of the generator, and leave the data where and as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from understudy.data import batches as batches_module
from understudy.data.batches import Batch, ResidentBatches, StreamBatches
from understudy.data.demonstrations import BatchStream, read_demonstrations
from understudy.data.types import Trajectory, Transitions
from understudy.errors import ConfigError, EmptyDataError

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int, dtype: Any = np.float32) -> dict[str, Any]:
    """Row ``i`` is the observation (i, -i) and the action i."""
    return {"obs": np.stack([np.arange(n), -np.arange(n)], axis=1).astype(dtype), "acts": np.arange(n)}


def resident(data: Any, batch_size: int, *, generator: torch.Generator | None = None, **kwargs: Any) -> ResidentBatches:
    return ResidentBatches(read_demonstrations(data), batch_size, device=CPU, generator=generator, **kwargs)


def one_epoch(source: ResidentBatches) -> list[Batch]:
    assert source.batch_size is not None
    return [batch for chunk in source.epoch() for batch in chunk.split(source.batch_size)]


def obs_of(batch: Batch) -> torch.Tensor:
    assert isinstance(batch.obs, torch.Tensor)
    return batch.obs


@pytest.mark.defect("B18", "B23")
@pytest.mark.fault("F10")
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), chunk=st.integers(1, 600), shuffled=st.booleans())
def test_every_row_is_seen_once_an_epoch(n: int, batch_size: int, chunk: int, shuffled: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "_CHUNK_BYTES", chunk)
        source = resident(numbered(n), batch_size, generator=seeded() if shuffled else None)
        for _ in range(2):
            found = one_epoch(source)
            sizes = [len(batch) for batch in found]
            assert len(source) == len(found) == -(-n // batch_size)
            assert sizes[:-1] == [batch_size] * (len(found) - 1)
            assert sizes[-1] == n - batch_size * (len(found) - 1)
            acts = torch.cat([batch.acts for batch in found])
            assert sorted(acts.tolist()) == list(range(n))
            if not shuffled:
                assert acts.tolist() == list(range(n))
            obs = torch.cat([obs_of(batch) for batch in found])
            assert torch.equal(obs, torch.stack([acts, -acts], dim=1).float())


@pytest.mark.defect("B18")
def test_63_rows_in_batches_of_32() -> None:
    assert [len(batch) for batch in one_epoch(resident(numbered(63), 32, generator=seeded()))] == [32, 31]


def test_chunks_hold_whole_batches_within_the_bytes_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    # A row is 8 bytes of observation and 8 of action; three batches of 4 rows are 192 bytes.
    monkeypatch.setattr(batches_module, "_CHUNK_BYTES", 200)
    chunks = list(resident(numbered(30), 4).epoch())
    assert [len(chunk) for chunk in chunks] == [12, 12, 6]
    monkeypatch.setattr(batches_module, "_CHUNK_BYTES", 1)
    assert [len(chunk) for chunk in resident(numbered(10), 4).epoch()] == [4, 4, 2]


def test_the_generator_alone_decides_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(seed: int, chunk_bytes: int) -> list[int]:
        monkeypatch.setattr(batches_module, "_CHUNK_BYTES", chunk_bytes)
        source = resident(numbered(50), 8, generator=seeded(seed))
        return [act for _ in range(2) for batch in one_epoch(source) for act in batch.acts.tolist()]

    torch.manual_seed(0)
    first = order(0, 1)
    torch.manual_seed(1)
    assert order(0, 1 << 20) == first
    assert order(1, 1) != first
    assert first[:50] != first[50:]


def test_frames_shared_between_fields_are_picked_by_episode() -> None:
    trajectories = [
        Trajectory(np.arange(start, start + n + 1, dtype=np.uint8)[:, None], np.arange(start, start + n), None, True)
        for start, n in ((0, 3), (10, 1), (20, 4))
    ]
    for batch in one_epoch(resident(trajectories, 3, generator=seeded())):
        assert obs_of(batch).dtype == torch.uint8
        assert obs_of(batch)[:, 0].tolist() == batch.acts.tolist()


def test_only_the_rows_asked_for() -> None:
    source = resident(numbered(10), 2, rows=np.array([7, 2, 5]))
    assert source.n_rows == 3
    assert [batch.acts.tolist() for batch in one_epoch(source)] == [[7, 2], [5]]
    picked = source.pick(torch.tensor([9, 0]))
    assert (picked.acts.tolist(), obs_of(picked).tolist()) == ([9, 0], [[9, -9], [0, 0]])


def test_weights_stay_with_their_rows() -> None:
    data = {**numbered(9), "weights": np.arange(9, dtype=np.float32) / 2}
    for batch in one_epoch(resident(data, 4, generator=seeded())):
        assert batch.weights is not None
        assert torch.equal(batch.weights, batch.acts / 2)
    assert one_epoch(resident(numbered(9), 4))[0].weights is None
    episodes = [Trajectory(np.zeros((n + 1, 1)), np.arange(n), None, True) for n in (2, 3)]
    weighted = dataclasses.replace(read_demonstrations(episodes), weights=np.array([0, 1, 0, 1, 2.0]))
    (batch,) = one_epoch(ResidentBatches(weighted, 5, device=CPU, generator=seeded()))
    assert batch.weights is not None
    assert torch.equal(batch.weights, batch.acts.double())


def test_dictionary_observations_are_picked_entry_by_entry() -> None:
    obs = {"x": np.arange(7, dtype=np.uint8), "y": np.arange(14, dtype=np.float64).reshape(7, 2)}
    found = one_epoch(resident((obs, np.arange(7)), 3, generator=seeded()))
    assert [len(batch) for batch in found] == [3, 3, 1]
    for batch in found:
        assert isinstance(batch.obs, dict)
        assert torch.equal(batch.obs["x"], batch.acts.to(torch.uint8))
        assert torch.equal(batch.obs["y"][:, 1], 2.0 * batch.acts + 1)
        assert (batch.obs["x"].dtype, batch.obs["y"].dtype) == (torch.uint8, torch.float64)


@pytest.mark.parametrize("layout", ["channels-first data", "channels-last data", "read-only data"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_images_kept_channels_last_have_the_same_values(layout: str, dictionary: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 5, 4)).astype(np.uint8)
    data = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if layout == "channels-last data" else images.copy()
    data.flags.writeable = layout != "read-only data"
    space: Any = spaces.Box(0, 255, (3, 5, 4), np.uint8)
    source: Any = {"obs": data, "acts": np.arange(9)}
    if dictionary:
        source["obs"], space = {"image": data}, spaces.Dict({"image": space})
    demos = read_demonstrations(source, observation_space=space)
    for channels_last in (False, True):
        batches = ResidentBatches(demos, 4, device=CPU, generator=seeded(), channels_last=channels_last)
        for batch in one_epoch(batches):
            found = batch.obs["image"] if isinstance(batch.obs, dict) else batch.obs
            assert found.dtype == torch.uint8
            assert torch.equal(found, torch.from_numpy(images)[batch.acts])
            if channels_last:
                assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.fault("F11")
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_memory_map_is_never_read_whole(tmp_path: Path, channels_last: bool) -> None:
    np.save(tmp_path / "images.npy", np.arange(10 * 3 * 4 * 4, dtype=np.uint8).reshape(10, 3, 4, 4))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    source = resident((mapped, np.arange(10)), 4, generator=seeded(), channels_last=channels_last)
    assert source._columns is not None
    (column,) = source._columns.obs.values()
    assert column._tensor is None
    assert column._array is not None
    assert np.shares_memory(column._array, mapped)
    for batch in one_epoch(source):
        assert torch.equal(obs_of(batch), torch.from_numpy(np.array(mapped))[batch.acts])


@pytest.mark.defect("B19")
def test_batches_can_be_written_to_without_touching_the_data() -> None:
    data = {**numbered(4), "weights": np.ones(4)}
    for source in (resident(data, 4), StreamBatches(BatchStream([data], None, None), device=CPU)):
        for chunk in source.epoch():
            assert chunk.weights is not None
            for tensor in (obs_of(chunk), chunk.acts, chunk.weights):
                tensor.fill_(77)
    np.testing.assert_array_equal(data["obs"], numbered(4)["obs"])
    np.testing.assert_array_equal(data["acts"], np.arange(4))
    np.testing.assert_array_equal(data["weights"], 1)
    assert data["obs"].flags.writeable


def unusual(kind: str, n: int) -> np.ndarray:
    """``numbered`` observations in memory that torch cannot look at."""
    obs: np.ndarray = numbered(n)["obs"]
    if kind == "backwards":
        return obs[::-1].copy()[::-1]
    if kind == "other byte order":
        return obs.astype(">f4")
    if kind == "field of records":
        records = np.zeros(n, dtype=[("flag", "u1"), ("obs", "<f4", (2,))])
        records["obs"] = obs
        return records["obs"]
    if kind == "read-only":
        obs.flags.writeable = False
        return obs
    return np.broadcast_to(obs[:, None, :], (n, 1, 2))[:, 0]


@pytest.mark.parametrize("kind", ["backwards", "other byte order", "field of records", "read-only", "broadcast"])
def test_arrays_that_torch_cannot_share_are_batched_all_the_same(kind: str) -> None:
    data = {"obs": unusual(kind, 7), "acts": np.arange(7)}
    stream = StreamBatches(BatchStream([data], None, None), device=CPU)
    for batch in [*one_epoch(resident(data, 3, generator=seeded())), *stream.epoch()]:
        assert torch.equal(obs_of(batch), torch.stack([batch.acts, -batch.acts], dim=1).float())


class NoItems(Transitions):
    """Fetching a single row or a slice is an error."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError(f"row {key} was fetched on its own")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("rows were walked one by one")


@pytest.mark.defect("C1")
def test_no_row_is_fetched_on_its_own() -> None:
    data = numbered(20)
    rows = NoItems(data["obs"], data["acts"], None, data["obs"], np.zeros(20, bool))
    found = one_epoch(resident(rows, 6, generator=seeded()))
    assert sorted(torch.cat([batch.acts for batch in found]).tolist()) == list(range(20))


@pytest.mark.fault("F10")
def test_nothing_to_pick_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        resident(numbered(3), 0)
    with pytest.raises(EmptyDataError):
        resident(numbered(3), 2, rows=np.array([], dtype=np.int64))
    with pytest.raises(EmptyDataError):
        resident(numbered(3), 2, rows=read_demonstrations(numbered(3)).rows_of_episodes(np.array([], dtype=np.int64)))


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.defect("B23")
def test_a_loader_without_drop_last_gives_its_smaller_last_batch() -> None:
    rows = numbered(7)
    dataset = [{"obs": obs, "acts": act} for obs, act in zip(rows["obs"], rows["acts"], strict=True)]
    demos = BatchStream(DataLoader(dataset, batch_size=3), None, None)  # type: ignore[arg-type]
    source = StreamBatches(demos, device=CPU)
    assert source.batch_size is None
    with pytest.raises(TypeError, match="no known length"):
        len(source)
    for _ in range(2):
        found = list(source.epoch())
        assert [len(batch) for batch in found] == [3, 3, 1]
        assert torch.cat([batch.acts for batch in found]).tolist() == list(range(7))


def test_a_stream_brings_images_dictionaries_and_weights() -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    batch = {
        "obs": {"image": torch.from_numpy(images), "t": np.arange(2)},
        "acts": np.zeros((2, 1), np.float32),
        "weights": np.broadcast_to(np.float32(0.5), (2,)),
    }
    (found,) = StreamBatches(BatchStream([batch], None, None), device=CPU, channels_last=True).epoch()
    assert isinstance(found.obs, dict)
    assert torch.equal(found.obs["image"], torch.from_numpy(images))
    assert found.obs["image"].is_contiguous(memory_format=torch.channels_last)
    assert found.weights is not None
    assert found.weights.tolist() == [0.5, 0.5]
    assert [len(part) for part in found.split(1)] == [1, 1]


@pytest.mark.fault("F10")
def test_a_stream_that_has_dried_up_says_so() -> None:
    source = StreamBatches(BatchStream(iter([numbered(3)]), None, None), device=CPU)
    assert len(list(source.epoch())) == 1
    with pytest.raises(EmptyDataError, match="used up after one pass"):
        list(source.epoch())
