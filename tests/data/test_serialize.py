"""What is saved comes back: types, shapes, bytes; and a file that is not what was saved is never believed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.data import _arrow, serialize
from understudy.data._json_infos import JsonInfos
from understudy.data.rollout import flatten_trajectories
from understudy.data.trajectory_store import TrajectoryStore
from understudy.data.types import DictObs, Trajectory, TrajectoryWithRew, maybe_wrap_in_dictobs
from understudy.errors import CorruptFileError, DataError, EmptyDataError, MissingFileError, UntrustedFileError
from understudy.util import files

FORMS = ["folder", "file.npz"]
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
DTYPES += ["float16", "float32", "float64"]


def same_array(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same(a: Trajectory, b: Trajectory) -> bool:
    """Equal to the last bit, NaN included."""
    parts = [(a.acts, b.acts)]
    if isinstance(a.obs, DictObs) and isinstance(b.obs, DictObs):
        if list(a.obs.keys()) != list(b.obs.keys()):
            return False
        parts += [(a.obs.get(key), b.obs.get(key)) for key in a.obs.keys()]  # noqa: SIM118
    else:
        parts.append((a.obs, b.obs))
    if isinstance(a, TrajectoryWithRew) and isinstance(b, TrajectoryWithRew):
        parts.append((a.rews, b.rews))
    flags = (type(a), a.terminal, a.truncated) == (type(b), b.terminal, b.truncated)
    infos = [None if x is None else list(x) for x in (a.infos, b.infos)]
    return flags and infos[0] == infos[1] and all(same_array(x, y) for x, y in parts)


def make(length: int, *, seed: int = 0, rewards: bool = True, **changes: Any) -> Trajectory:
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "obs": rng.normal(size=(length + 1, 3)).astype(np.float32),
        "acts": rng.integers(0, 5, size=length),
        "infos": [{"step": t} for t in range(length)],
        "terminal": True,
        "truncated": bool(seed % 2),
    }
    if rewards:
        fields["rews"] = rng.normal(size=length)
    return (TrajectoryWithRew if rewards else Trajectory)(**{**fields, **changes})


def make_many(n: int = 5) -> list[Trajectory]:
    return [make(1 + 3 * i, seed=i) for i in range(n)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """About two of the trajectories above in a record batch."""
    monkeypatch.setattr(_arrow, "BATCH_BYTES", 200)


@st.composite
def arrays(draw: st.DrawFn, rows: int) -> np.ndarray:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    data = draw(st.binary(min_size=(size := rows * int(np.prod(shape)) * dtype.itemsize), max_size=size))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype=dtype).reshape(rows, *shape)


def _split(array: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(lengths)[:-1])


@st.composite
def fields_of_any_kind(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Fields of trajectories that fit together; built in the test, since run-time checks may not run in a strategy."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    frames = [length + 1 for length in lengths]
    obs: list[Any]
    if draw(st.booleans()):
        keys = draw(st.lists(st.text(st.characters(), max_size=4), min_size=1, max_size=3, unique=True))
        columns = {key: _split(draw(arrays(sum(frames))), frames) for key in keys}
        obs = [{key: parts[i] for key, parts in columns.items()} for i in range(len(lengths))]
    else:
        obs = _split(draw(arrays(sum(frames))), frames)
    acts = _split(draw(arrays(sum(lengths))), lengths)
    rews = draw(hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64]), sum(lengths)))
    with_rews = draw(st.booleans())
    info = st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.text(max_size=3))
    trajs: list[dict[str, Any]] = []
    for i, length in enumerate(lengths):
        infos = draw(st.none() | st.lists(info, min_size=length, max_size=length))
        terminal = draw(st.booleans())
        fields = {"obs": obs[i], "acts": acts[i], "infos": infos, "terminal": terminal}
        fields["truncated"] = terminal and draw(st.booleans())
        trajs.append({**fields, "rews": _split(rews, lengths)[i]} if with_rews else fields)
    return trajs


@pytest.mark.defect("B22", "B28")
@pytest.mark.fault("F10")
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(fields=fields_of_any_kind(), batch_bytes=st.sampled_from([1, 64, 1 << 20]))
def test_round_trip_keeps_every_bit(
    tmp_path: Path, form: str, fields: list[dict[str, Any]], batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_arrow, "BATCH_BYTES", batch_bytes)
    for kwargs in fields:
        kwargs["obs"] = maybe_wrap_in_dictobs(kwargs["obs"])
    trajs = [(TrajectoryWithRew if "rews" in kwargs else Trajectory)(**kwargs) for kwargs in fields]
    serialize.save(tmp_path / form, trajs)
    loaded = serialize.load(tmp_path / form)
    assert len(loaded) == len(trajs)
    assert all(same(a, b) for a, b in zip(trajs, loaded, strict=True))


@pytest.mark.defect("B22")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_comes_back(tmp_path: Path, form: str, dtype: str) -> None:
    trajs = [make(4, obs=(np.arange(40) % 2).astype(dtype).reshape(5, 2, 4), acts=np.arange(4).astype(dtype))]
    serialize.save(tmp_path / form, trajs)
    assert same(trajs[0], serialize.load(tmp_path / form)[0])
    assert trajs[0] == serialize.load(tmp_path / form)[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_other_byte_order_comes_back_in_the_machines_own(tmp_path: Path, form: str) -> None:
    serialize.save(tmp_path / form, [make(1, acts=np.array([1.5], dtype=">f4"))])
    acts = serialize.load(tmp_path / form)[0].acts
    assert acts.dtype == np.float32
    assert acts.dtype.isnative
    assert acts.tolist() == [1.5]


@pytest.mark.defect("B19")
@pytest.mark.parametrize("form", FORMS)
def test_saving_leaves_the_callers_arrays_alone(tmp_path: Path, form: str) -> None:
    traj = make(3)
    before = [array.copy() for array in (traj.obs, traj.acts)]
    serialize.save(tmp_path / form, [traj])
    for array, copy in zip((traj.obs, traj.acts), before, strict=True):
        assert array.flags.writeable
        np.testing.assert_array_equal(array, copy)


@pytest.mark.defect("B28")
def test_a_path_ending_in_npz_is_a_file_without_pickles_and_any_other_a_folder(tmp_path: Path) -> None:
    serialize.save(tmp_path / "a.npz", make_many())
    serialize.save(tmp_path / "a.arrows", make_many())
    assert (tmp_path / "a.npz").is_file()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert same_array(archive["acts"], np.concatenate([traj.acts for traj in make_many()]))
        assert all(archive[name].dtype != object for name in archive.files)
    assert {p.name for p in (tmp_path / "a.arrows").iterdir()} == {
        "data-00000-of-00001.arrow",
        "state.json",
        "dataset_info.json",
        "MANIFEST.json",
    }


@pytest.mark.defect("B28")
def test_a_folder_named_npz_still_loads_and_can_be_replaced_by_a_file(tmp_path: Path) -> None:
    serialize.save(tmp_path / "folder", make_many())
    (tmp_path / "folder").rename(tmp_path / "old.npz")
    assert len(serialize.load(tmp_path / "old.npz")) == 5
    serialize.save(tmp_path / "old.npz", make_many(2))
    assert (tmp_path / "old.npz").is_file()
    assert len(serialize.load(tmp_path / "old.npz")) == 2


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_any_kind_of_path_will_do(tmp_path: Path, kind: Any) -> None:
    where = kind(str(tmp_path / "new" / "parents" / "data"))
    serialize.save(where, make_many(1))
    assert same(serialize.load_with_rewards(where)[0], make_many(1)[0])


def test_huggingface_datasets_opens_the_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    obs = DictObs({"image": images, "speed": np.array([0.5, 1.5], np.float32)})
    serialize.save(tmp_path / "data", [make(1, obs=obs), make(1, obs=obs, terminal=False, truncated=False)])
    dataset = datasets.load_from_disk(str(tmp_path / "data"))
    assert dataset.column_names == ["obs.image", "obs.speed", "acts", "rews", "infos", "terminal", "truncated"]
    assert dataset["terminal"][:] == [True, False]
    assert json.loads(dataset[0]["infos"][0]) == {"step": 0}
    row = dataset.with_format("numpy")[0]
    np.testing.assert_array_equal(row["obs.image"], images)
    for name, dtype in [("obs.image", "uint8"), ("obs.speed", "float32"), ("acts", "int64"), ("rews", "float64")]:
        leaf = dataset.features[name]
        while hasattr(leaf, "feature"):
            leaf = leaf.feature
        assert leaf.dtype == dtype


def test_huggingface_datasets_reads_many_batches(tmp_path: Path, small_batches: None) -> None:
    datasets = pytest.importorskip("datasets")
    serialize.save(tmp_path / "data", make_many())
    dataset = datasets.load_from_disk(str(tmp_path / "data"))
    assert [len(acts) for acts in dataset["acts"]] == [1, 4, 7, 10, 13]
    np.testing.assert_array_equal(np.float32(dataset[4]["obs"]), make_many()[4].obs)


def test_trajectories_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", make_many())
    store = serialize.load(tmp_path / "data")
    columns = store.columns()
    for traj in store:
        assert np.shares_memory(traj.obs, columns.obs)
        assert np.shares_memory(traj.acts, columns.acts)
        assert not traj.obs.flags.writeable


@pytest.mark.usefixtures("small_batches")
def test_columns_are_the_trajectories_end_to_end(tmp_path: Path) -> None:
    trajs = make_many()
    serialize.save(tmp_path / "data", trajs)
    store = serialize.load_with_rewards(tmp_path / "data")
    assert len(list(store.chunks())) > 1
    columns = store.columns()
    assert columns.transition_offsets.tolist() == store.transition_offsets.tolist() == [0, 1, 5, 12, 22, 35]
    assert columns.frame_offsets.tolist() == store.frame_offsets.tolist() == [0, 2, 7, 15, 26, 40]
    assert same_array(columns.obs, np.concatenate([traj.obs for traj in trajs]))
    assert same_array(columns.acts, np.concatenate([traj.acts for traj in trajs]))
    assert columns.truncated.tolist() == [False, True, False, True, False]
    assert columns.terminal.all()
    assert [len(infos or []) for infos in map(columns.infos.__getitem__, range(5))] == [1, 4, 7, 10, 13]
    assert len(columns) == len(store) == 5
    assert store.n_transitions == 35
    assert "35 transitions, with rewards" in repr(store)


@pytest.mark.usefixtures("small_batches")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_slice_is_a_store_of_the_same_trajectories(tmp_path: Path, data: st.DataObject) -> None:
    trajs = make_many()
    if not (tmp_path / "data").exists():
        serialize.save(tmp_path / "data", trajs)
    store: Any = serialize.load(tmp_path / "data", verify=True)
    expected = trajs
    for _ in range(2):  # a slice of a slice too
        cut = data.draw(st.slices(len(expected)))
        store, expected = store[cut], expected[cut]
        assert isinstance(store, TrajectoryStore)
        assert len(store) == len(expected)
        assert all(same(a, b) for a, b in zip(store, expected, strict=True))
        columns = store.columns()
        assert columns.transition_offsets.tolist() == [0, *np.cumsum([len(traj) for traj in expected])]
        assert all(same(columns.trajectory(i), traj) for i, traj in enumerate(expected))


def test_indices_work_as_in_a_list(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", make_many(3))
    store = serialize.load(tmp_path / "data")
    assert same(store[-1], make_many(3)[2])
    assert same(store[np.int64(1)], make_many(3)[1])
    for outside in (3, -4):
        with pytest.raises(IndexError):
            store[outside]


def test_loaded_trajectories_can_be_saved_again(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", make_many())
    serialize.save(tmp_path / "data", serialize.load(tmp_path / "data")[1:3])
    serialize.save(tmp_path / "again.npz", serialize.load(tmp_path / "data"))
    assert [same(a, b) for a, b in zip(serialize.load(tmp_path / "again.npz"), make_many()[1:3], strict=True)]


def test_a_generator_is_written_while_it_runs(tmp_path: Path, small_batches: None) -> None:
    alive: list[int] = []

    def generate() -> Iterator[Trajectory]:
        for i in range(20):
            alive.append((tmp_path / "data").exists())
            yield make(5, seed=i)

    serialize.save(tmp_path / "data", generate())
    assert len(serialize.load(tmp_path / "data")) == 20
    assert not any(alive)  # nothing under that name until it was complete


def test_infos_come_back_as_plain_json(tmp_path: Path) -> None:
    info = {
        "scalar": np.float32(0.5),
        "array": np.array([[1, 2], [3, 4]], dtype=np.uint8),
        "nested": [{"flag": np.bool_(True)}, (1, None)],
        "obs": DictObs({"a": np.array([1.0])}),
        "text": "å",
        "nan": float("nan"),
    }
    serialize.save(tmp_path / "data", [make(2, infos=[info, {}])])
    infos: Any = serialize.load(tmp_path / "data")[0].infos
    assert infos[1] == {}
    back = dict(infos[0])
    assert np.isnan(back.pop("nan"))
    assert back == {
        "scalar": 0.5,
        "array": [[1, 2], [3, 4]],
        "nested": [{"flag": True}, [1, None]],
        "obs": {"a": [1.0]},
        "text": "å",
    }
    assert infos[::-1][0] == {}
    assert list(infos[1:]) == [{}]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"a": {"b": [0, object()]}}, r"object at trajectory 1, infos\[2\]\['a'\]\['b'\]\[1\]"),
        ({"a": {1: 2}}, r"the key 1 in trajectory 1, infos\[2\]\['a'\]"),
        ({"c": 1j}, r"complex at trajectory 1, infos\[2\]\['c'\]"),
    ],
)
def test_an_info_that_json_cannot_hold_is_named(tmp_path: Path, info: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        serialize.save(tmp_path / "data", [make(3), make(3, infos=[{}, {}, info])])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_trajectories_that_differ_are_named(tmp_path: Path, form: str) -> None:
    for other, message in [
        (make(2, obs=np.zeros((3, 3))), r"float32 of shape \(3,\).*got float64 of shape \(3,\) in trajectory 1"),
        (make(2, acts=np.zeros((2, 2), int)), r"`acts`.*shape \(2,\) in trajectory 1"),
        (make(2, rewards=False), "`rews`.*none in trajectory 1"),
        (make(2, obs=DictObs({"k": np.zeros((3, 3))})), "'k'"),
    ]:
        with pytest.raises(DataError, match=message):
            serialize.save(tmp_path / form, [make(1), other])
    with pytest.raises(EmptyDataError):
        serialize.save(tmp_path / form, [])
    with pytest.raises(DataError, match="complex128"):
        serialize.save(tmp_path / form, [make(1, acts=np.zeros(1, complex))])
    with pytest.raises(DataError, match="at least one number"):
        serialize.save(tmp_path / form, [make(1, acts=np.zeros((1, 0)))])
    assert not list(tmp_path.iterdir())


def test_rewards_are_demanded_only_where_asked_for(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", [make(2, rewards=False)])
    assert type(serialize.load(tmp_path / "data")[0]) is Trajectory
    assert "without rewards" in repr(serialize.load(tmp_path / "data"))
    with pytest.raises(DataError, match="TrajectoryWithRew"):
        serialize.load_with_rewards(tmp_path / "data")


@pytest.mark.fault("F5")
def test_no_flipped_bit_of_a_folder_goes_unnoticed(tmp_path: Path, rng: np.random.Generator) -> None:
    serialize.save(tmp_path / "data", make_many())
    for file in sorted((tmp_path / "data").iterdir()):
        good = file.read_bytes()
        for bit in rng.choice(8 * len(good), size=40, replace=False):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit % 8)
            file.write_bytes(bad)
            with pytest.raises(CorruptFileError, match=file.name):
                serialize.load(tmp_path / "data")
        file.write_bytes(good)
    assert len(serialize.load(tmp_path / "data")) == 5


@pytest.mark.fault("F5")
def test_no_flipped_bit_of_an_npz_changes_data(tmp_path: Path, rng: np.random.Generator) -> None:
    file = tmp_path / "data.npz"
    serialize.save(file, make_many())
    good = file.read_bytes()
    noticed = 0
    for bit in rng.choice(8 * len(good), size=250, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(bad)
        try:
            loaded = serialize.load(file)
        except CorruptFileError as err:
            noticed += str(file) in str(err)
        else:  # a date or an attribute in the archive's directory, which nothing reads
            assert all(same(a, b) for a, b in zip(make_many(), loaded, strict=True))
    assert noticed > 150


@pytest.mark.fault("F4")
@pytest.mark.parametrize("verify", [True, False])
def test_no_truncated_file_is_believed(tmp_path: Path, rng: np.random.Generator, verify: bool) -> None:
    serialize.save(tmp_path / "data", make_many())
    serialize.save(tmp_path / "data.npz", make_many())
    for file in [*sorted((tmp_path / "data").iterdir()), tmp_path / "data.npz"]:
        good = file.read_bytes()
        where = file if file.suffix == ".npz" else file.parent
        for size in [0, 1, len(good) - 1, *rng.integers(len(good), size=20)]:
            file.write_bytes(good[:size])
            with pytest.raises(CorruptFileError, match=file.name):
                serialize.load(where, verify=verify)
        file.write_bytes(good)


def test_without_verification_altered_bytes_pass_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    serialize.save(tmp_path / "data", make_many())
    stream = tmp_path / "data" / "data-00000-of-00001.arrow"
    good, obs = stream.read_bytes(), make_many()[4].obs.tobytes()
    stream.write_bytes(good.replace(obs, bytes(len(obs))))
    with pytest.raises(CorruptFileError, match="altered bytes"):
        serialize.load(tmp_path / "data")
    assert not serialize.load(tmp_path / "data", verify=False)[4].obs.any()
    assert "verify=False" in caplog.text


@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow", "MANIFEST.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    serialize.save(tmp_path / "data", make_many())
    (tmp_path / "data" / name).unlink()
    with pytest.raises(CorruptFileError, match=name):
        serialize.load(tmp_path / "data")


def test_a_stream_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {"obs": [[[0.0], [1.0]]], "acts": [[0, 1]], "infos": [None], "terminal": [True], "truncated": [False]}
    good = make(1, obs=np.zeros((2, 1)), rewards=False)
    schema = _arrow.schema_of(_arrow.TrajectorySpec.of(good))
    for change, message in [
        ({}, "'obs' and 'acts' of different lengths"),
        ({"acts": [None]}, "missing values"),
        ({"acts": [[1]], "infos": [["{}", "{}"]]}, "'infos' and 'acts' of different lengths"),
    ]:
        batch = pa.RecordBatch.from_pydict({**columns, **change}, schema=schema)
        with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(batch)
        with pytest.raises(CorruptFileError, match=message):
            _arrow.read(tmp_path / "x.arrow")


def test_what_something_else_wrote_is_told_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        serialize.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        serialize.load(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"without MANIFEST\.json"):
        serialize.load(tmp_path)
    for name, content, message in [
        ("a.npy", b"\x93NUMPY\x01\x00", "one NumPy array"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("a.txt", b"hello", "begins b'hello'"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            serialize.load(tmp_path / name)
    np.savez(tmp_path / "arrays.npz", obs=rng.normal(size=3), acts=np.zeros(3))
    with pytest.raises(DataError, match=r"arrays \['obs', 'acts'\]"):
        serialize.load(tmp_path / "arrays.npz")


def test_a_folder_that_datasets_wrote_itself_is_told_apart(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"obs": [[1, 2]]}).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(DataError, match="another library wrote"):
        serialize.load(tmp_path / "data")


@pytest.mark.fault("F6")
def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb()))
    shutil.copy(tmp_path / "a.pkl", tmp_path / "a.npz")
    objects = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "b.npz", infos=objects)
    np.savez(tmp_path / "c.npz", meta=objects)
    for name, error in [
        ("a.pkl", UntrustedFileError),
        ("a.npz", UntrustedFileError),
        ("b.npz", UntrustedFileError),
        ("c.npz", CorruptFileError),
    ]:
        with pytest.raises(error):
            serialize.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("F7")
def test_sizes_in_headers_are_not_believed(tmp_path: Path) -> None:
    serialize.save(tmp_path / "a.npz", make_many(1))
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (1 << 45,)}
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(tmp_path / "b.npz", "w") as new:
        for name in old.namelist():
            with new.open(name, "w") as member:
                if name == "offsets.npy":
                    np.lib.format.write_array_header_1_0(member, header)
                else:
                    member.write(old.read(name))
    with pytest.raises(CorruptFileError, match="does not fit its header"):
        serialize.load(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(tmp_path / "c.npz", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CorruptFileError, match="compressed"):
        serialize.load(tmp_path / "c.npz")


def test_a_newer_layout_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.data import _npz

    monkeypatch.setattr(_arrow, "_LAYOUT", 2)
    monkeypatch.setattr(_npz, "_LAYOUT", 2)
    for form in FORMS:
        serialize.save(tmp_path / form, make_many(1))
    monkeypatch.undo()
    for form in FORMS:
        with pytest.raises(DataError, match="newer understudy"):
            serialize.load(tmp_path / form)


@pytest.mark.fault("F1")
@pytest.mark.parametrize("form", FORMS)
def test_a_save_that_fails_leaves_the_old_version_and_no_rubbish(tmp_path: Path, form: str) -> None:
    def fails() -> Iterator[Trajectory]:
        yield make(1)
        raise KeyboardInterrupt

    serialize.save(tmp_path / form, make_many())
    with pytest.raises(KeyboardInterrupt):
        serialize.save(tmp_path / form, fails())
    assert [p.name for p in tmp_path.iterdir()] == [form]
    assert len(serialize.load(tmp_path / form)) == 5


@pytest.mark.parametrize("atomic", [True, False])
def test_an_open_dataset_outlives_its_replacement(
    tmp_path: Path, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not atomic:  # as on a system that cannot swap two names
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    serialize.save(tmp_path / "data", make_many())
    old = serialize.load(tmp_path / "data")
    serialize.save(tmp_path / "data", make_many(2))
    assert len(serialize.load(tmp_path / "data")) == 2
    assert all(same(a, b) for a, b in zip(old, make_many(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_nothing_but_a_dataset_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    (tmp_path / "note").touch()
    serialize.save(tmp_path / "data", make_many(1))
    (tmp_path / "data" / "README.md").touch()
    for name in ("home", "note", "data"):
        with pytest.raises(DataError, match="free name"):
            serialize.save(tmp_path / name, make_many(1))
    assert (tmp_path / "home" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    serialize.save(tmp_path / "empty", make_many(1))
    assert len(serialize.load(tmp_path / "empty")) == 1


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    serialize.save(tmp_path / "v1", make_many(1))
    (tmp_path / "latest").symlink_to("v1")
    serialize.save(tmp_path / "latest", make_many(2))
    assert (tmp_path / "latest").is_symlink()
    assert len(serialize.load(tmp_path / "v1")) == 2


def test_infos_are_decoded_together_as_one_by_one(tmp_path: Path) -> None:
    infos = [{"a": 1.5, "b": [True, None]}, {}, {"text": "é\n{}", "nan": 0}]
    serialize.save(tmp_path / "data", [make(1), make(3, infos=infos), make(2, infos=None)])
    store = serialize.load(tmp_path / "data")
    assert isinstance(store[1].infos, JsonInfos)
    assert list(store[1].infos.to_array()) == infos == list(store[1].infos)
    flat = flatten_trajectories(store)
    assert list(flat.infos) == [{"step": 0}, *infos, {}, {}]


def test_empty_infos_of_a_file_take_no_memory_when_they_are_flattened(tmp_path: Path) -> None:
    serialize.save(tmp_path / "data", [make(3, infos=[{}] * 3), make(2, infos=None)])
    flat = flatten_trajectories(serialize.load(tmp_path / "data"))
    assert isinstance(flat.infos, np.ndarray)
    assert flat.infos.strides == (0,)
    assert list(flat.infos) == [{}] * 5


@pytest.mark.fault("F5")
@pytest.mark.parametrize("text", ["[]{}", "{}[]", '{"a":1}}', "{}{", "12{}"])
def test_infos_that_are_no_objects_are_told(text: str) -> None:
    line = np.frombuffer(text.encode(), np.uint8)
    with pytest.raises(CorruptFileError, match="a file"):
        JsonInfos(line, np.array([0, 2, len(line)]), "a file").to_array()


def test_streaming_holds_two_batches_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 trajectories of 1 MiB, in batches of 4 MiB."""
    monkeypatch.setattr(_arrow, "BATCH_BYTES", 4 << 20)
    held: list[int] = []

    def record() -> Iterator[Trajectory]:
        for _ in range(40):
            held.append(tracemalloc.get_traced_memory()[0])
            yield make(1, obs=np.zeros((2, 1 << 17), np.float32))

    tracemalloc.start()
    try:
        serialize.save(tmp_path / "data", record())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(serialize.load(tmp_path / "data")) == 40
    assert max(held) < 6 << 20
    assert peak < 12 << 20
