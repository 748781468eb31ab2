"""A dataset made to do harm is refused at once, in one typed line, before anything it names is touched."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from _clock import cpu_seconds

from understudy.data import serialize
from understudy.data._json_infos import JsonInfos
from understudy.data._jsonpickle import decode_info
from understudy.data.demonstrations import as_demonstrations
from understudy.data.types import Trajectory
from understudy.errors import CorruptFileError, DataError, UnderstudyError, UntrustedFileError

STREAM = "data-00000-of-00001.arrow"
PLAIN = {"obs": [[[0.0], [1.0]]], "acts": [[1]], "infos": [["{}"]], "terminal": [True]}


def older(
    folder: Path,
    columns: Mapping[str, Any] | None = None,
    *,
    state: Any = None,
    schema: Any = None,
    options: Any = None,
) -> Path:
    """A folder as `datasets` saves it, with one row."""
    folder.mkdir()
    table = pa.table({**PLAIN, **(columns or {})}) if schema is None else pa.table({**PLAIN, **(columns or {})}, schema)
    sink = pa.OSFile(str(folder / STREAM), "wb")
    with sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": STREAM}]} if state is None else state
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def refused(path: Path, *errors: type[UnderstudyError]) -> str:
    """Through every loader, within a second; the last one's line."""
    text = ""
    for load in (serialize.load, serialize.load_with_rewards, as_demonstrations):
        start = cpu_seconds()
        with pytest.raises(errors or (UnderstudyError,)) as caught:
            list(load(path))
        assert cpu_seconds() - start < 1
        text = str(caught.value)
        assert "\n" not in text
    return text


def test_the_harmless_folder_is_read(tmp_path: Path) -> None:
    assert serialize.load(older(tmp_path / "data"))[0].acts.tolist() == [1]


@pytest.mark.fault("F6")
@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "a/../../secret.arrow", "..", "", "a\nb"])
def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path, name: Any) -> None:
    shutil.move(older(tmp_path / "other") / STREAM, tmp_path / "secret.arrow")
    text = refused(older(tmp_path / "data", state={"_data_files": [{"filename": name}]}), DataError)
    assert "plain names" in text


@pytest.mark.fault("F6")
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("name", [STREAM, "state.json", "MANIFEST.json"])
def test_a_link_in_the_folder_is_not_followed(tmp_path: Path, ours: bool, name: str) -> None:
    if ours:
        serialize.save(tmp_path / "data", [Trajectory(np.zeros((2, 1)), np.zeros(1), None, True)])
    elif name == "MANIFEST.json":
        return
    else:
        older(tmp_path / "data")
    target = tmp_path / "data" / name
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refused(tmp_path / "data", DataError)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"_data_files": 1},
        {"_data_files": [1]},
        {"_data_files": [{"filename": 7}]},
        {"_data_files": [{}]},
        "text",
    ],
)
def test_a_state_of_another_shape_is_told(tmp_path: Path, state: Any) -> None:
    assert "state.json" in refused(older(tmp_path / "data", state=state), CorruptFileError)


@pytest.mark.fault("F7")
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"_data_files": ' + "[" * 5_000_000, "\x00", ""])
def test_a_state_that_is_no_json_is_told(tmp_path: Path, text: str) -> None:
    (older(tmp_path / "data") / "state.json").write_text(text)
    refused(tmp_path / "data", CorruptFileError)


@pytest.mark.fault("F7")
def test_a_state_or_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    for name in ("state.json", "MANIFEST.json"):
        folder = older(tmp_path / name)
        with (folder / name).open("wb") as file:
            file.truncate(8 << 30)  # takes no room on the disk
        refused(folder, CorruptFileError)


@pytest.mark.fault("F6")
def test_extension_types_are_refused_before_the_schema_is_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Bomb())}
    schema = pa.schema([pa.field("obs", pa.list_(pa.list_(pa.float64())), metadata=metadata)])
    schema = schema.append(pa.field("acts", pa.list_(pa.int64()))).append(pa.field("infos", pa.list_(pa.string())))
    folder = older(tmp_path / "data", schema=schema.append(pa.field("terminal", pa.bool_())))
    assert "extension types" in refused(folder, UntrustedFileError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"acts": pa.array([[b"pickled"]])}, "binary"),
        ({"acts": pa.array([["a"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string())))}, "dictionary"),
        ({"acts": pa.array([[{"a": 1}]])}, "struct"),
        ({"acts": pa.array([[[("a", 1)]]], pa.list_(pa.map_(pa.string(), pa.int64())))}, "map"),
        ({"acts": pa.nulls(1)}, "null"),
        ({"acts": pa.array([1])}, "'acts' of type int64"),
        ({"extra": pa.array([b"pickled"])}, "'extra'"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert message in refused(older(tmp_path / "data", columns), DataError)


@pytest.mark.fault("F7")
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_before_they_grow(tmp_path: Path, codec: str) -> None:
    zeros = pa.array([np.zeros(1 << 22)])
    folder = older(tmp_path / "data", {"acts": zeros}, options=pa.ipc.IpcWriteOptions(compression=codec))
    assert (folder / STREAM).stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    assert "compressed" in refused(folder, DataError)
    assert pa.total_allocated_bytes() == before


@pytest.mark.fault("F7")
@pytest.mark.parametrize("value", [2**31 - 1, -1, -(2**31)])
def test_absurd_offsets_and_lengths_are_told(tmp_path: Path, value: int) -> None:
    """Every 32-bit number of the stream's body in turn."""
    folder = older(tmp_path / "data")
    good = (folder / STREAM).read_bytes()
    refusals = 0
    for place in range(0, len(good) - 4, 4):
        (folder / STREAM).write_bytes(good[:place] + struct.pack("<i", value) + good[place + 4 :])
        try:
            for trajectory in serialize.load(folder):
                trajectory.obs.sum()
                list(trajectory.infos or [])
        except UnderstudyError:
            refusals += 1
    assert refusals > 20


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"a":' + '{"py/tuple":[' * 5000 + "]}" * 5000 + "}"]
)
def test_infos_of_any_depth_are_told_when_they_are_read(text: str) -> None:
    line = np.frombuffer(text.encode(), np.uint8)
    for decode in (json.loads, decode_info):
        infos = JsonInfos(line, np.array([0, len(line)]), "a file", decode)
        if decode is decode_info or not text.endswith("}"):
            with pytest.raises(CorruptFileError, match="a file"):
                infos[0]


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def header(shape: Any, descr: str = "<f8") -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


GOOD = {"acts": npy(np.zeros(1)), "terminal": npy(np.ones(1, bool)), "indices": npy(np.zeros(0, int))}
NESTED = io.BytesIO()
with zipfile.ZipFile(NESTED, "w") as inner:
    inner.writestr("obs.npy", npy(np.zeros((2, 1))))


@pytest.mark.fault("F7")
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "obs",
    [
        header((1 << 45, 1)) + bytes(16),
        header((1 << 62, 1 << 62)) + bytes(16),
        header((-2, -1)) + bytes(16),
        header((2, 1), "|V1000000000"),
        header((2, 1), "<U500000000"),
        header((2, 0)),
        header("x"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"-" * 9000,
        b"\x93NUMPY\x09\x00",
        NESTED.getvalue(),
        pickle.dumps([1]),
        b"",
    ],
)
def test_a_member_that_claims_what_is_not_there_is_told(tmp_path: Path, obs: bytes, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        for name, content in {**GOOD, "obs": obs}.items():
            archive.writestr(f"{name}.npy", content)
    refused(tmp_path / "a.npz", CorruptFileError, DataError)


@pytest.mark.fault("F6")
@pytest.mark.parametrize("name", ["obs", "acts", "terminal", "indices", "rews"])
def test_objects_for_numbers_are_not_unpickled(tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    fields = {"obs": np.zeros((2, 1)), "acts": np.zeros(1), "terminal": np.ones(1, bool), "indices": np.zeros(0, int)}
    np.savez(tmp_path / "a.npz", **{**fields, name: np.array([Bomb()], dtype=object)})
    assert f"{name}.npy" in refused(tmp_path / "a.npz", UntrustedFileError)
    np.savez(tmp_path / "b.npz", **fields, infos=np.array([Bomb()], dtype=object))
    assert serialize.load(tmp_path / "b.npz")[0].infos is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("F7")
def test_an_archive_of_very_many_members_is_not_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(5000):
            archive.writestr(f"{number}.npy", b"")
    assert "5000 members" in refused(tmp_path / "a.npz", CorruptFileError)


@pytest.mark.fault("F5")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rews": None}, "`rews`.*got none"),
        ({"rews": pa.array([[1.0]], pa.list_(pa.float32()))}, "`rews`.*got float32"),
        ({"acts": [[1.5]]}, "`acts`.*got float64"),
        ({"obs": [[[0.0, 0.0], [1.0, 1.0]]]}, r"`obs`.*shape \(1,\); got float64 of shape \(2,\)"),
    ],
)
def test_shards_that_do_not_fit_each_other_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    names = [STREAM, "data-00001-of-00002.arrow"]
    columns = {"rews": [[1.0]]}
    folder = older(tmp_path / "data", columns, state={"_data_files": [{"filename": name} for name in names]})
    second = {name: value for name, value in {**PLAIN, **columns, **changes}.items() if value is not None}
    table = pa.table(second)
    with pa.OSFile(str(folder / names[1]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    text = refused(folder, DataError)
    assert names[1] in text
    assert re.search(message, text)


@pytest.mark.fault("F5")
def test_batches_of_one_stream_that_do_not_fit_each_other_are_told(tmp_path: Path) -> None:
    folder = older(tmp_path / "data")
    rows = [pa.record_batch({**PLAIN, "obs": [[[0.0] * n] * 2]}) for n in (1, 2)]
    with pa.OSFile(str(folder / STREAM), "wb") as sink, pa.ipc.new_stream(sink, rows[0].schema) as writer:
        for row in rows:
            writer.write_batch(row)
    assert "`obs`" in refused(folder, DataError)
