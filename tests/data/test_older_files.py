"""What `imitation` 1.0.1 wrote is read: numbers without trust, pickles only with it."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _clock import cpu_seconds

from understudy.data import serialize
from understudy.data._older_pickle import is_pickle
from understudy.data.demonstrations import as_demonstrations
from understudy.data.types import DictObs, Trajectory, TrajectoryWithRew
from understudy.errors import ConfigError, CorruptFileError, DataError, UntrustedFileError

GOLDEN = Path(__file__).parents[1] / "golden" / "forebear"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
WITH_PICKLES = ["trajectories.npz", "transitions.npz", "objects.npz", "list.pkl"]


def check_numbers(store: Any) -> None:
    assert len(store) == 3
    for trajectory, obs, acts, rews in zip(store, EXPECTED["obs"], EXPECTED["acts"], EXPECTED["rews"], strict=True):
        assert isinstance(trajectory, TrajectoryWithRew)
        assert [trajectory.obs.dtype, trajectory.acts.dtype, trajectory.rews.dtype] == ["float32", "int64", "float32"]
        np.testing.assert_array_equal(trajectory.obs, np.array(obs, np.float32))
        np.testing.assert_array_equal(trajectory.acts, acts)
        np.testing.assert_array_equal(trajectory.rews, np.array(rews, np.float32))
    assert [trajectory.terminal for trajectory in store] == [True, True, False]


def check_infos(store: Any) -> None:
    assert [trajectory.truncated for trajectory in store] == [True, False, False]
    first, last = store[0].infos[0], store[0].infos[2]
    assert (first["step"], first["x"], first["pair"]) == (0, 0.0, (0, "a"))
    assert last["TimeLimit.truncated"] is True
    assert last["episode"] == {"r": 3.0, "l": 3}
    for name in ("obs", "again"):
        assert first[name].dtype == np.float32
        assert first[name].tolist() == [1.5, 2.5]


def test_a_folder_is_read_without_its_library_and_without_copies() -> None:
    store = serialize.load_with_rewards(GOLDEN / "folder")
    check_numbers(store)
    check_infos(store)
    assert not store[0].obs.flags.writeable
    assert not store[0].obs.flags.owndata


def test_images_and_vector_actions_of_a_folder_keep_their_types() -> None:
    store = serialize.load(GOLDEN / "folder_plain")
    assert [(t.obs.dtype, t.obs.shape, t.acts.dtype, t.acts.shape) for t in store] == [
        ("uint8", (3, 2, 2, 3), "float64", (2, 2)),
        ("uint8", (4, 2, 2, 3), "float64", (3, 2)),
    ]
    assert [list(t.infos) for t in store] == [[{}] * 2, [{}] * 3]
    assert not store.has_rewards


@pytest.mark.parametrize("name", ["folder", "trajectories.npz", "transitions.npz"])
def test_every_algorithm_takes_them_by_their_path(name: str) -> None:
    demonstrations = as_demonstrations(GOLDEN / name)
    assert demonstrations.acts.tolist() == [act for acts in EXPECTED["acts"] for act in acts]
    assert demonstrations.episode_offsets.tolist() == [0, 3, 4, 6]


@pytest.mark.parametrize("name", WITH_PICKLES)
def test_with_trust_all_of_it_is_read_and_the_forebear_need_not_be_installed(name: str) -> None:
    store = serialize.load_with_rewards(GOLDEN / name, trust="pickle")
    check_numbers(store)
    check_infos(store)


def test_dictionary_observations_in_a_pickle_become_ours() -> None:
    (trajectory,) = serialize.load(GOLDEN / "dict.pkl", trust="pickle")
    assert isinstance(trajectory.obs, DictObs)
    np.testing.assert_array_equal(trajectory.obs.get("a"), np.arange(6.0).reshape(3, 2))
    assert trajectory.obs.get("b").dtype == np.uint8
    assert trajectory.infos is None


@pytest.mark.parametrize("name", ["trajectories.npz", "transitions.npz"])
def test_without_trust_pickled_infos_are_left_out_and_the_log_tells_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store = serialize.load(GOLDEN / name)
    check_numbers(store)
    assert [t.infos for t in store] == [None] * 3
    assert [t.truncated for t in store] == [False] * 3
    (message,) = caplog.messages
    assert "infos" in message
    assert 'trust="pickle"' in message


@pytest.mark.fault("F6")
@pytest.mark.parametrize("name", ["objects.npz", "list.pkl", "dict.pkl"])
def test_without_trust_a_file_of_nothing_but_pickles_is_refused(name: str) -> None:
    for load in (serialize.load, serialize.load_with_rewards, as_demonstrations):
        with pytest.raises(UntrustedFileError, match='trust="pickle"') as caught:
            load(GOLDEN / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trust", ["yes", "", "Pickle"])
def test_trust_is_one_word_or_nothing(trust: Any) -> None:
    with pytest.raises(ConfigError, match="trust="):
        serialize.load(GOLDEN / "folder", trust=trust)


def test_what_was_read_can_be_saved_as_ours(tmp_path: Path) -> None:
    for number, name in enumerate(["folder", *WITH_PICKLES]):
        serialize.save(tmp_path / str(number), serialize.load(GOLDEN / name, trust="pickle"))
        check_numbers(again := serialize.load(tmp_path / str(number)))
        assert again[0].infos[0]["obs"] == [1.5, 2.5]
        assert [t.truncated for t in again] == [True, False, False]


def test_slices_keep_pickled_infos() -> None:
    store = serialize.load(GOLDEN / "list.pkl", trust="pickle")
    assert [t.infos[0]["step"] for t in store[::2]] == [0, 0]
    assert len(store[::-1].columns().infos[0]) == 2
    assert store[1:].columns().infos[0][0]["episode"] == {"r": 1.0, "l": 1}


def npz(path: Path, **changes: Any) -> Path:
    """Two episodes of 2 and 1 steps, both ended."""
    fields = {
        "obs": np.arange(10.0).reshape(5, 2),
        "acts": np.arange(3),
        "terminal": np.ones(2, bool),
        "indices": np.array([2]),
        "rews": np.zeros(3),
    }
    np.savez(path, **{name: value for name, value in {**fields, **changes}.items() if value is not None})
    return path


def test_one_episode_has_no_inner_index(tmp_path: Path) -> None:
    changes = {"obs": np.zeros((4, 2)), "terminal": np.ones(1, bool), "indices": np.array([])}
    assert [len(t) for t in serialize.load(npz(tmp_path / "a.npz", **changes))] == [3]


def test_whole_numbers_as_rewards_become_floats_throughout(tmp_path: Path) -> None:
    store = serialize.load_with_rewards(npz(tmp_path / "a.npz", rews=np.arange(3)))
    assert store.columns().rews is not None
    assert store.columns().rews.dtype == store[0].rews.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": np.array([3])}, "do not rise"),
        ({"indices": np.array([-1])}, "do not rise"),
        ({"indices": np.array([1.5])}, "`indices` of type float64"),
        ({"terminal": np.ones(3, bool)}, "for 2 trajectories"),
        ({"obs": np.zeros((4, 2))}, "observations for 3 actions"),
        ({"rews": np.zeros(2)}, "2 rows of 'rews'"),
        ({"acts": np.array(["a", "b", "c"])}, "dtype <U1"),
        ({"terminal": None, "indices": None}, "arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        serialize.load(npz(tmp_path / "a.npz", **changes))


def test_rows_that_follow_each_other_are_one_episode(tmp_path: Path) -> None:
    """Rows 0-1 follow each other and end with a done; row 2 begins elsewhere and goes to 9; row 3 begins at 7."""
    obs, following = np.array([0.0, 1.0, 5.0, 7.0])[:, None], np.array([1.0, 2.0, 9.0, 8.0])[:, None]
    dones = np.array([False, True, False, False])
    np.savez(tmp_path / "a.npz", obs=obs, acts=np.arange(4), next_obs=following, dones=dones)
    store = serialize.load(tmp_path / "a.npz")
    assert [t.obs[:, 0].tolist() for t in store] == [[0, 1, 2], [5, 9], [7, 8]]
    assert [t.terminal for t in store] == [True, False, False]


@pytest.mark.fault("F4")
def test_truncated_files_are_told(tmp_path: Path) -> None:
    for name in ("trajectories.npz", "objects.npz", "list.pkl"):
        content = (GOLDEN / name).read_bytes()
        for cut in (0, 1, 9, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:cut])
            with pytest.raises((CorruptFileError, DataError)):
                serialize.load(tmp_path / name, trust="pickle")
    for cut in (0, 100, 3000):
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        shutil.copytree(GOLDEN / "folder", tmp_path / "folder")
        stream = tmp_path / "folder" / "data-00000-of-00001.arrow"
        stream.write_bytes(stream.read_bytes()[:cut])
        with pytest.raises(CorruptFileError, match="data-00000-of-00001"):
            serialize.load(tmp_path / "folder")


def test_a_class_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04cno_such_package.module\nThing\n.")
    with pytest.raises(DataError, match=r"no_such_package\.module\.Thing"):
        serialize.load(tmp_path / "a.pkl", trust="pickle")


def test_a_pickle_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}))
    with pytest.raises(DataError, match="got a dict"):
        serialize.load(tmp_path / "a.pkl", trust="pickle")


def test_the_names_that_numpy_and_gym_had_are_understood(tmp_path: Path) -> None:
    array = pickle.dumps(np.arange(2.0), 2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core.multiarray" in array
    space = b"cgym.spaces.discrete\nDiscrete\n"
    from understudy.data._older_pickle import unpickle

    (tmp_path / "a.pkl").write_bytes(array)
    with (tmp_path / "a.pkl").open("rb") as file:
        assert unpickle(file, tmp_path).tolist() == [0, 1]
    (tmp_path / "b.pkl").write_bytes(space + b".")
    with (tmp_path / "b.pkl").open("rb") as file:
        assert unpickle(file, tmp_path).__module__ == "gymnasium.spaces.discrete"


@pytest.mark.parametrize("kind", ["object", "list"])
def test_our_own_trajectories_in_a_pickle_are_read_with_trust(tmp_path: Path, kind: str) -> None:
    trajectory = Trajectory(np.zeros((2, 1)), np.zeros(1), None, True, truncated=True)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(trajectory if kind == "object" else [trajectory]))
    (again,) = serialize.load(tmp_path / "a.pkl", trust="pickle")
    assert again == trajectory


@pytest.mark.fault("F7")
def test_an_archive_that_inflates_beyond_all_proportion_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("obs.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(np.zeros(1 << 23)))
        for _ in range(64):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    for load in (serialize.load, as_demonstrations):
        with pytest.raises(CorruptFileError, match="inflate"):
            load(path)


def test_the_field_of_what_a_time_limit_ended_is_used(tmp_path: Path) -> None:
    store = serialize.load(npz(tmp_path / "a.npz", truncated=np.array([True, False])))
    assert [(t.terminal, t.truncated) for t in store] == [(True, True), (True, False)]
    infos = np.array([{}, {"TimeLimit.truncated": True}, {}], dtype=object)
    path = npz(tmp_path / "b.npz", infos=infos, truncated=np.array([False, True]))
    assert [t.truncated for t in serialize.load(path, trust="pickle")] == [False, True]  # before what infos say
    rows = {"obs": np.arange(4.0)[:, None], "next_obs": np.arange(1.0, 5.0)[:, None], "acts": np.arange(4)}
    flags = {"dones": np.array([0, 0, 0, 1], bool), "truncated": np.array([0, 1, 0, 0], bool)}
    np.savez(tmp_path / "c.npz", **rows, **flags)
    store = serialize.load(tmp_path / "c.npz")
    assert [(len(t), t.terminal, t.truncated) for t in store] == [(2, True, True), (2, True, False)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncated": np.zeros(3, bool)}, "`truncated` of type bool and shape"),
        ({"truncated": np.array([0.0, 1.0])}, "`truncated` of type float64"),
        ({"truncated": np.ones(2, bool), "terminal": np.zeros(2, bool)}, "`truncated` where `terminal` is False"),
    ],
)
def test_flags_that_contradict_each_other_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        serialize.load(npz(tmp_path / "a.npz", **changes))


def test_an_observation_that_is_not_a_number_does_not_end_an_episode(tmp_path: Path) -> None:
    """NaN follows NaN in row 1, entry 0; in row 3 it follows 3, which is another observation."""
    nan = float("nan")
    obs = np.array([[0, 0], [nan, 1], [2, 2], [nan, 3]])
    following = np.array([[nan, 1], [2, 2], [3, 3], [4, 4]])
    np.savez(tmp_path / "a.npz", obs=obs, acts=np.arange(4), next_obs=following, dones=np.zeros(4, bool))
    assert [len(t) for t in serialize.load(tmp_path / "a.npz")] == [3, 1]


@pytest.mark.fault("F7")
def test_the_length_of_a_directory_is_not_hidden_by_a_small_count(tmp_path: Path) -> None:
    name = b"%05x.npy"
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + name % number for number in range(130_000))
    for told, message in ((5, "directory of 7150000 bytes"), (130_000 & 0xFFFF, "64464 members")):
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, told, told, len(directory), 4, 0)
        (tmp_path / "a.npz").write_bytes(b"PK\x03\x04" + directory + end)
        for load in (serialize.load, as_demonstrations):
            start = cpu_seconds()
            with pytest.raises(CorruptFileError, match=message):
                load(tmp_path / "a.npz")
            assert cpu_seconds() - start < 0.5


@pytest.mark.fault("F7")
def test_a_small_archive_may_not_inflate_beyond_16_mib(tmp_path: Path) -> None:
    changes = {"obs": np.zeros((2_000_002, 1)), "acts": np.zeros(2_000_000, np.int32), "indices": np.array([5])}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **changes, terminal=np.ones(2, bool))
    assert path.stat().st_size < 32_000
    for load in (serialize.load, as_demonstrations):
        tracemalloc.start()
        try:
            with pytest.raises(CorruptFileError, match="inflate"):
                load(path)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_an_archive_with_more_than_4_gib_in_it_has_another_end(tmp_path: Path) -> None:
    """The end is rewritten as large archives have it: a record of 64-bit numbers, a locator, then the usual end."""
    content = npz(tmp_path / "a.npz").read_bytes()
    *_, count, length, offset, _ = struct.unpack("<4s4H2LH", content[-22:])
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "b.npz").write_bytes(content[:-22] + large + locator + end)
    assert [len(t) for t in serialize.load(tmp_path / "b.npz")] == [2, 1]
    lying = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1001, 1001, length, offset)
    (tmp_path / "b.npz").write_bytes(content[:-22] + lying + locator + end)
    with pytest.raises(CorruptFileError, match="1001 members"):
        serialize.load(tmp_path / "b.npz")


@pytest.mark.fault("F7")
def test_names_and_layouts_of_any_length_make_short_messages(tmp_path: Path) -> None:
    long = "a\nb" * 280
    np.savez(tmp_path / "a.npz", obs=np.zeros((3, 1)), acts=np.zeros(3), **{long: np.zeros(3)})
    np.savez(tmp_path / "b.npz", obs=np.zeros((3, 1)), **{f"{i}{long}": np.zeros(3) for i in range(40)})
    meta = json.dumps({"understudy_layout": long}).encode()
    np.savez(tmp_path / "c.npz", meta=np.frombuffer(meta, np.uint8))
    for name in "abc":
        for load in (serialize.load, as_demonstrations):
            with pytest.raises(DataError) as caught:
                load(tmp_path / f"{name}.npz")
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 3000


def test_only_a_pickle_is_called_one(tmp_path: Path) -> None:
    for content in (b"", b"\x80", b"\x80\x04", b"\x80\x81\x82.", b"\x80\x04no end", b"\x80\x01K\x01.", b"K\x01."):
        (tmp_path / "a.npz").write_bytes(content)
        assert not is_pickle(tmp_path / "a.npz")
    for protocol in (2, 3, 4, 5):
        (tmp_path / "a.npz").write_bytes(pickle.dumps([1], protocol))
        assert is_pickle(tmp_path / "a.npz")
        with pytest.raises(UntrustedFileError):
            as_demonstrations(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"\x80\x81\x82.")
    with pytest.raises(CorruptFileError):
        as_demonstrations(tmp_path / "a.npz")
