"""Trajectories as a `datasets.Dataset` in the columns of `imitation`, both ways, and from a folder like the hub's."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.data import huggingface_utils, serialize
from understudy.data.demonstrations import as_demonstrations
from understudy.data.huggingface_utils import (
    TrajectoryDatasetSequence,
    load_from_hub,
    trajectories_to_dataset,
    trajectories_to_dict,
)
from understudy.data.types import DictObs, Trajectory, TrajectoryWithRew
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    EmptyDataError,
    MissingExtraError,
    MissingFileError,
    UntrustedFileError,
)

datasets = pytest.importorskip("datasets")
GOLDEN = Path(__file__).parents[1] / "golden" / "forebear"


def episode(length: int, *, rewards: bool = True, **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "obs": np.arange(6 * (length + 1), dtype=np.uint8).reshape(length + 1, 3, 2),
        "acts": np.linspace(0, 1, 2 * length, dtype=np.float32).reshape(length, 2),
        "infos": [{"t": t} for t in range(length)],
        "terminal": length != 3,
        **({"rews": np.ones(length, np.float32)} if rewards else {}),
    }
    return (TrajectoryWithRew if rewards else Trajectory)(**{**fields, **changes})


EPISODES = [episode(n) for n in (2, 3, 1, 4)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize("rewards", [True, False])
def test_there_and_back_types_and_shapes_stay(rewards: bool) -> None:
    episodes = [episode(n, rewards=rewards) for n in (2, 3, 1)]
    dataset = trajectories_to_dataset(episodes)
    assert dataset.column_names == ["obs", "acts", "infos", "terminal", *(["rews"] if rewards else [])]
    back = TrajectoryDatasetSequence(dataset)
    assert list(back) == episodes
    assert [(t.obs.dtype, t.acts.dtype, type(t)) for t in back] == [("uint8", "float32", type(episodes[0]))] * 3


def test_columns_are_what_the_forebear_reads() -> None:
    columns = trajectories_to_dict([episode(2, infos=None), episode(1, truncated=True)])
    assert list(columns) == ["obs", "acts", "infos", "terminal", "rews"]
    assert columns["infos"] == [["{}", "{}"], ['{"t":0,"TimeLimit.truncated":true}']]
    assert columns["terminal"] == [True, True]
    assert columns["obs"][1] is not None


def test_a_time_limit_survives_in_the_infos() -> None:
    for infos in (None, [{"t": 0}, {"t": 1}]):
        (back,) = TrajectoryDatasetSequence(trajectories_to_dataset([episode(2, infos=infos, truncated=True)]))
        assert back.truncated
        assert not back.terminated


def test_rows_are_a_sequence() -> None:
    rows = TrajectoryDatasetSequence(trajectories_to_dataset(EPISODES))
    assert len(rows) == 4
    assert rows[-1] == EPISODES[-1]
    assert isinstance(rows[1:3], TrajectoryDatasetSequence)
    assert list(rows[1:3]) == EPISODES[1:3]
    assert list(rows[::-2]) == EPISODES[::-2]
    assert list(rows[4:]) == []
    with pytest.raises(IndexError):
        rows[4]


def test_the_dataset_is_given_back_as_it_was() -> None:
    dataset = trajectories_to_dataset(EPISODES, info=datasets.DatasetInfo(description="four"))
    rows = TrajectoryDatasetSequence(dataset)
    assert rows.dataset is dataset
    assert trajectories_to_dataset(rows) is dataset
    assert dataset.info.description == "four"
    assert isinstance(dataset[0]["obs"], list)


def test_what_the_forebear_saved_and_datasets_opened_is_the_same_as_what_we_open() -> None:
    for name in ("folder", "folder_plain"):
        ours = serialize.load(GOLDEN / name)
        theirs = TrajectoryDatasetSequence(datasets.load_from_disk(str(GOLDEN / name)))
        assert list(theirs) == list(ours)


def test_what_datasets_saves_is_read_without_it(tmp_path: Path) -> None:
    trajectories_to_dataset(EPISODES).save_to_disk(str(tmp_path / "data"), num_shards=3)
    assert len(list((tmp_path / "data").glob("*.arrow"))) == 3
    assert list(serialize.load(tmp_path / "data")) == EPISODES
    assert len(as_demonstrations(tmp_path / "data")) == 10


def test_our_own_folder_opened_by_datasets_is_read(tmp_path: Path) -> None:
    obs = DictObs({"a": np.zeros((3, 2), np.float32), "b": np.ones((3, 1), np.uint8)})
    episodes = [Trajectory(obs, np.arange(2), None, True, truncated=True)]
    serialize.save(tmp_path / "data", episodes)
    assert list(TrajectoryDatasetSequence(datasets.load_from_disk(str(tmp_path / "data")))) == episodes


def test_demonstrations_may_be_a_dataset_or_its_sequence() -> None:
    dataset = trajectories_to_dataset(EPISODES)
    for source in (dataset, TrajectoryDatasetSequence(dataset)):
        assert as_demonstrations(source).episode_offsets.tolist() == [0, 2, 5, 6, 10]


def test_the_splits_of_one_file_each_are_told_apart(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"test": trajectories_to_dataset(EPISODES[:1])})
    with pytest.raises(DataError, match="one split"):
        TrajectoryDatasetSequence(splits)
    splits.save_to_disk(str(tmp_path / "data"))
    with pytest.raises(DataError, match="data/test"):
        serialize.load(tmp_path / "data")
    assert list(serialize.load(tmp_path / "data" / "test")) == EPISODES[:1]


@pytest.mark.parametrize(
    ("episodes", "error", "message"),
    [
        ([], EmptyDataError, "none"),
        ([episode(1), episode(1, rewards=False)], DataError, "trajectory 1 without"),
        ([episode(1, obs=DictObs({"a": np.zeros(2)}))], DataError, "dictionary"),
        ([episode(1, infos=[{"x": object()}])], DataError, r"trajectory 0, infos\[0\]"),
        ([episode(1), episode(1, obs=np.zeros((2, 1)))], DataError, "one dtype and shape"),
    ],
)
def test_what_the_columns_cannot_hold_is_named(
    episodes: list[Trajectory], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trajectories_to_dataset(episodes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminal": [1]}, "'terminal' of type int64"),
        ({"obs": [[[1.0], [1.0, 2.0], [1.0]]]}, "differing"),
        ({"obs": [[[1.0]]]}, "one frame more"),
        ({"acts": [[1, None]]}, "missing"),
        ({"acts": [["a", "b"]]}, "holds string"),
        ({"infos": [["{}"]]}, "one text an action"),
        ({"infos": [[1, 2]]}, "'infos' of type"),
        ({"rews": [[1.0]]}, "'rews'"),
    ],
)
def test_rows_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    columns = {"obs": [[[1.0]] * 3], "acts": [[1, 2]], "infos": [["{}", "{}"]], "terminal": [True], **changes}
    with pytest.raises(DataError, match=message):
        TrajectoryDatasetSequence(datasets.Dataset.from_dict(columns))[0]


def test_other_columns_are_told() -> None:
    with pytest.raises(DataError, match="text"):
        TrajectoryDatasetSequence(datasets.Dataset.from_dict({"text": ["a"]}))


@pytest.mark.fault("F6")
def test_infos_name_code_in_vain(tmp_path: Path) -> None:
    command = {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [f"touch {tmp_path}/ran"]}]}
    columns = {"obs": [[[1.0]] * 2], "acts": [[1]], "infos": [[json.dumps({"a": command})]], "terminal": [True]}
    dataset = datasets.Dataset.from_dict(columns)
    dataset.save_to_disk(str(tmp_path / "data"))
    for rows in (TrajectoryDatasetSequence(dataset), serialize.load(tmp_path / "data")):
        infos = rows[0].infos
        assert infos is not None
        assert infos[0]["a"]["py/reduce"][0] == {"py/function": "os.system"}
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_parquet_files_is_read_like_the_hub(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for number, part in enumerate((EPISODES[:3], EPISODES[3:])):
        path = tmp_path / "hub" / "data" / f"train-0000{number}-of-00002.parquet"
        trajectories_to_dataset(part).to_parquet(str(path))
    rows = load_from_hub(str(tmp_path / "hub"))
    assert list(rows) == EPISODES
    assert isinstance(rows[0], TrajectoryWithRew)


@pytest.mark.fault("F6")
def test_a_repository_in_another_form_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.txt").write_text("hello\n")
    with pytest.raises(UntrustedFileError, match="text"):
        load_from_hub(str(tmp_path / "hub"))


@pytest.mark.fault("F6")
def test_a_script_in_a_repository_is_not_run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hub.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UntrustedFileError, match="script"):
        load_from_hub(str(tmp_path / "hub"))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"3\.6\.0"):
        load_from_hub(str(tmp_path / "hub"))


def test_nothing_of_it_asks_for_trust_in_a_repository() -> None:
    assert "trust_remote_code" not in Path(huggingface_utils.__file__).read_text()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for call in (lambda: load_from_hub("a/b"), lambda: trajectories_to_dataset(EPISODES)):
        with pytest.raises(MissingExtraError, match=r"understudy\[hf\]"):
            call()
    assert len(serialize.load(GOLDEN / "folder")) == 3


COLUMNS = {"obs": [[[1.0]] * 3], "acts": [[1, 2]], "infos": [["{}", "{}"]], "terminal": [True]}


def parquet(folder: Path, table: Any = None, **options: Any) -> Path:
    folder.mkdir()
    pq.write_table(pa.table(COLUMNS) if table is None else table, folder / "train.parquet", **options)
    return folder / "train.parquet"


def complaint(error: type[Exception], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(error) as caught:
        load_from_hub(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    return str(caught.value)


@pytest.mark.fault("F5")
def test_a_split_or_configuration_that_is_not_there_is_told(tmp_path: Path, cache: Path) -> None:
    path = parquet(tmp_path / "hub")
    assert "['train']" in complaint(DataError, str(path.parent), split="nope")
    shutil.copy(path, path.with_name("other.parquet"))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("train", "other"))
    (path.parent / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert "['train', 'other']" in complaint(DataError, str(path.parent))
    assert "nope" in complaint(DataError, str(path.parent), name="nope")
    assert len(load_from_hub(str(path.parent), name="other")) == 1


@pytest.mark.fault("F4")
def test_a_truncated_table_is_told(tmp_path: Path, cache: Path) -> None:
    path = parquet(tmp_path / "hub")
    good = path.read_bytes()
    for cut in (0, 3, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        complaint(CorruptFileError, str(path.parent))
    path.unlink()
    path.with_suffix(".json").write_text('{"obs": [[1]\n')
    complaint(CorruptFileError, str(path.parent))


@pytest.mark.fault("F5")
def test_tables_that_are_not_what_their_card_says_are_told(tmp_path: Path, cache: Path) -> None:
    path = parquet(tmp_path / "hub")
    (path.parent / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: obs\n    dtype: image\n  splits:\n  - name: train\n---\n"
    )
    complaint(CorruptFileError, str(path.parent))


@pytest.mark.fault("F5")
def test_what_is_not_there_or_out_of_reach_is_told(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "none"), str(tmp_path / "empty"), "nobody/nothing"):
        complaint(MissingFileError, name)


def long_lists() -> Any:
    values = pa.array(np.zeros(4_000_001, np.float32))
    obs, acts = (
        pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), values[:n]) for n in (len(values), len(values) - 1)
    )
    return pa.table({"obs": obs, "acts": acts, "terminal": [True]})


def long_texts() -> Any:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), ["x" * 1_000_000])
    return pa.table({"obs": [0] * 1000, "acts": [0] * 1000, "terminal": [True] * 1000, "infos": texts})


@pytest.mark.fault("F7")
@pytest.mark.parametrize("make", [long_lists, long_texts])
def test_a_small_table_of_a_few_values_repeated_is_not_unpacked(tmp_path: Path, cache: Path, make: Any) -> None:
    path = parquet(tmp_path / "hub", make(), compression="zstd")
    assert path.stat().st_size < 8192
    before = pa.total_allocated_bytes()
    assert "that unpack to" in complaint(DataError, str(path.parent))
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert not list(cache.rglob("*.arrow"))


@pytest.mark.fault("F7")
def test_texts_packed_by_what_they_share_are_refused(tmp_path: Path, cache: Path) -> None:
    encoding = {"infos.list.element": "DELTA_BYTE_ARRAY"}
    path = parquet(tmp_path / "hub", column_encoding=encoding, use_dictionary=False)
    assert "DELTA_BYTE_ARRAY" in complaint(DataError, str(path.parent))


@pytest.mark.fault("F7")
def test_compressed_streams_and_packed_files_are_refused(tmp_path: Path, cache: Path) -> None:
    for folder, compression in (("plain", None), ("packed", "zstd")):
        (tmp_path / folder).mkdir()
        table = pa.table(COLUMNS)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        sink = pa.OSFile(str(tmp_path / folder / "train.arrow"), "wb")
        with sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    assert load_from_hub(str(tmp_path / "plain"))[0].acts.tolist() == [1, 2]
    assert "compressed" in complaint(DataError, str(tmp_path / "packed"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.json.gz").write_bytes(gzip.compress(json.dumps(COLUMNS).encode()))
    assert "not packed" in complaint(DataError, str(tmp_path / "text"))
