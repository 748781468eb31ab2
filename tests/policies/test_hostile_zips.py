"""Zips and torch files made to do harm, and pickles read as data."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import stat
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from understudy.errors import CorruptFileError, UntrustedFileError
from understudy.policies._bounded_zip import open_zip
from understudy.policies._inert_pickle import Call, MalformedPickleError, Name, Persistent, read_inert
from understudy.policies._torch_archive import read_torch_archive
from understudy.policies.serialize import load_policy

REFUSED = (CorruptFileError, UntrustedFileError)


def zipped(*members, compression=zipfile.ZIP_STORED, **attributes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return buffer.getvalue()


def patched(content: bytes, offset_from_entry: int, value: bytes) -> bytes:
    """The first entry of the directory changed at an offset."""
    at = content.index(b"PK\x01\x02") + offset_from_entry
    return content[:at] + value + content[at + len(value) :]


GOOD = zipped(("a", b"1234"), ("b", b"5678"))
END = len(GOOD) - 22


def test_a_good_zip_is_read():
    for content in (GOOD, zipped(("a", b"1234"), ("b", b"5678"), compression=zipfile.ZIP_DEFLATED)):
        with open_zip(content, "it", max_members=2) as archive:
            assert archive.names == ["a", "b"]
            assert archive.read("a", 4) == b"1234"
            with pytest.raises(CorruptFileError, match="at most 3 bytes"):
                archive.read("a", 3)
            with pytest.raises(CorruptFileError, match="'c'"):
                archive.read("c", 3)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        GOOD[:-1],
        b"#!/bin/sh\n" + GOOD,
        GOOD + b"comment",
        zipped(("a", b"1"), ("a", b"2")),
        zipped(("../a", b"1")),
        zipped(("/etc/a", b"1")),
        zipped(("a/../../b", b"1")),
        zipped(("C:\\a", b"1")),
        zipped(("a\nb", b"1")),
        zipped(("a", b"/etc/passwd"), external_attr=(stat.S_IFLNK | 0o777) << 16),
        zipped(("a", b"1"), ("b", b"2"), ("c", b"3")),
        zipped(("a", bytes(60 << 20)), compression=zipfile.ZIP_DEFLATED),
        zipped(("a", bytes(1000)), compression=zipfile.ZIP_LZMA),
        zipped(("a", bytes(1000)), compression=zipfile.ZIP_BZIP2),
        patched(GOOD, 8, b"\x01\x00"),
        patched(GOOD, 24, struct.pack("<L", 1 << 31)),
        patched(GOOD, 20, struct.pack("<LL", 40, 40)),
        patched(GOOD, 42, struct.pack("<L", 38)),
        GOOD[: END + 8] + struct.pack("<HH", 60_000, 60_000) + GOOD[END + 12 :],
        GOOD[: END + 12] + struct.pack("<L", 1 << 30) + GOOD[END + 16 :],
        GOOD[: END + 16] + struct.pack("<L", 7) + GOOD[END + 20 :],
        GOOD[:END] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + GOOD[END:],
    ],
    ids=range(24),
)
def test_crooked_zips_are_refused(content):
    started = time.perf_counter()
    with pytest.raises(REFUSED, match="it"), open_zip(content, "it", max_members=2) as archive:
        archive.read("a", 1 << 40)
    assert time.perf_counter() - started < 1


def test_a_member_with_another_checksum():
    with open_zip(GOOD.replace(b"1234", b"1235"), "it", max_members=2) as archive, pytest.raises(CorruptFileError):
        archive.read("a", 100)


def torch_bytes(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    return first == second and type(first) is type(second)


def test_torch_files_are_read_as_torch_reads_them():
    base = torch.randn(4, 6)
    value = {
        "whole": base,
        "turned": base.T,
        "part": base[1:3, ::2],
        "same": base,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "kinds": [
            torch.ones(3).to(kind)
            for kind in (
                *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
                *(torch.int8, torch.uint8, torch.bool),
            )
        ],
        "plain": (1, -5, 2**70, 0.1, True, None, "text", [], {}),
        3: collections.OrderedDict([("a", torch.zeros(1))]),
    }
    content = torch_bytes(value)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    expected["parameter"] = expected["parameter"].detach()
    expected[3] = dict(expected[3])
    assert same(read_torch_archive(content, "it"), expected)


class Runs:
    def __reduce__(self):
        return os.system, ("touch executed",)


def torch_like(data: bytes, *storages: tuple[str, bytes]) -> bytes:
    return zipped(("archive/data.pkl", data), *((f"archive/data/{name}", content) for name, content in storages))


def tensor_pickle(count=4, offset=0, shape=(4,), strides=(1,), kind="FloatStorage", module="torch") -> bytes:
    """What torch.save writes of one tensor, with any numbers in it."""
    parts = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
    parts += b"X\x07\x00\x00\x00storage" + f"c{module}\n{kind}\n".encode() + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"

    def number(value):
        return b"I" + str(value).encode() + b"\n"

    parts += number(count) + b"tQ" + number(offset)
    for numbers in (shape, strides):
        parts += b"(" + b"".join(map(number, numbers)) + b"t"
    return parts + b"\x89ccollections\nOrderedDict\n)RtR."


def test_the_tool_makes_good_tensors():
    storage = np.arange(4, dtype="<f4").tobytes()
    content = torch_like(tensor_pickle(shape=(2, 2), strides=(1, 2)), ("0", storage))
    assert read_torch_archive(content, "it").tolist() == [[0, 2], [1, 3]]


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    "content",
    [
        torch_bytes({"a": Runs()}),
        pickle.dumps(Runs()),
        b"",
        torch_like(b"cos\nsystem\n(S'touch executed'\ntR."),
        torch_like(b"\x80\x04N"),
        torch_like(tensor_pickle(count=5), ("0", bytes(16))),
        torch_like(tensor_pickle(count=1 << 40, shape=(1 << 40,)), ("0", bytes(16))),
        torch_like(tensor_pickle(shape=(1 << 40,), strides=(0,)), ("0", bytes(16))),
        torch_like(tensor_pickle(shape=(3,), strides=(2,)), ("0", bytes(16))),
        torch_like(tensor_pickle(offset=1), ("0", bytes(16))),
        torch_like(tensor_pickle(offset=-1), ("0", bytes(16))),
        torch_like(tensor_pickle(strides=(-1,)), ("0", bytes(16))),
        torch_like(tensor_pickle(shape=(2, 2)), ("0", bytes(16))),
        torch_like(tensor_pickle(shape=(1,) * 100, strides=(1,) * 100), ("0", bytes(16))),
        torch_like(tensor_pickle(kind="Storage", module="os"), ("0", bytes(16))),
        torch_like(tensor_pickle()),
        torch_like(b"\x80\x04" + b"]" * 200 + b"a" * 199 + b"."),
        torch_like(b"\x80\x04]q\x00h\x00a."),
        torch_like(b"\x80\x04]q\x00" + b"]q\x01(" + b"h\x00" * 50 + b"eq\x00" * 1 + b"." ),
        zipped(("a/data.pkl", b"N."), ("b/data.pkl", b"N.")),
        zipped(("archive/data.pkl", b"N."), ("archive/byteorder", b"big")),
        zipped(("archive/data.pkl", b"N."), compression=zipfile.ZIP_DEFLATED),
        zipped(("archive/version", b"3")),
    ],
    ids=range(23),
)  # fmt: skip
def test_hostile_torch_files(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    with pytest.raises(REFUSED, match="it"):
        read_torch_archive(content, "it")
    assert time.perf_counter() - started < 1
    assert list(tmp_path.iterdir()) == []


def doubling(levels: int) -> bytes:
    """A list of two of the list before, and so on: 2 ** levels in the end."""
    content = b"\x80\x04]q\x00"
    for level in range(levels):
        content += b"0](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1])
    return content + b"."


def test_lists_that_double_are_refused():
    assert len(read_inert(doubling(100))) == 2  # as data they are small
    started = time.perf_counter()
    with pytest.raises(CorruptFileError):
        read_torch_archive(torch_like(doubling(100)), "it")
    assert time.perf_counter() - started < 1


def test_pickles_as_data():
    value = {"a": [1, 2.5, "x", b"y", None, True, (1,), ()], "b": {3: {4}}}
    for protocol in range(2, 6):
        found = read_inert(pickle.dumps(value, protocol=protocol))
        assert found["a"] == [*value["a"][:3], found["a"][3], *value["a"][4:]]
    found = read_inert(pickle.dumps(Runs()))
    assert isinstance(found, Call)
    assert (found.name, found.arguments) == ("posix.system", ("touch executed",))
    assert read_inert(pickle.dumps(os.system)) == Name("posix", "system")
    assert read_inert(b"\x80\x02X\x01\x00\x00\x00aQ.") == Persistent("a")
    counted = read_inert(pickle.dumps(collections.OrderedDict(a=1)))
    assert (counted.name, counted.items) == ("collections.OrderedDict", [("a", 1)])


def test_random_bytes_never_do_more_than_fail():
    rng = random.Random(0)
    base = pickle.dumps({"a": [1, 2, (3, "x")], "b": np.arange(5), "c": collections.OrderedDict(d=Runs())})
    for _ in range(3000):
        content = bytearray(base)
        for _ in range(rng.randint(1, 5)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            read_inert(bytes(content))
        except MalformedPickleError:
            continue


@pytest.fixture(scope="module")
def model_zip(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, n_steps=8, batch_size=8).save(path)
    return path.read_bytes()


@pytest.mark.fault("F5")
def test_damaged_models(model_zip, tmp_path, cartpole_venv):
    """A changed bit is found by the members' sums or lies where it changes nothing: in the members not read."""
    path = tmp_path / "model.zip"
    path.write_bytes(model_zip)
    expected = load_policy("ppo", cartpole_venv, path=path, device="cpu").state_dict()
    found = 0
    for position in np.random.default_rng(0).integers(0, len(model_zip) * 8, 200):
        flipped = bytearray(model_zip)
        flipped[position // 8] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            state = load_policy("ppo", cartpole_venv, path=path, device="cpu").state_dict()
        except REFUSED:
            found += 1
        else:
            assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert found > 50
    for size in np.linspace(0, len(model_zip) - 1, 30, dtype=int):
        path.write_bytes(model_zip[:size])
        with pytest.raises(REFUSED):
            load_policy("ppo", cartpole_venv, path=path)


def with_data(model_zip: bytes, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(model_zip)) as archive:
        return zipped(*((name, data if name == "data" else archive.read(name)) for name in archive.namelist()))


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b"[" + b"[]," * 2_000_000 + b"[]]",
        b'{"a": ' + b"1" * 100_000 + b"}",
        b"\xff\xfe",
        json.dumps({"policy_class": "ActorCriticPolicy"}).encode(),
    ],
    ids=range(9),
)
def test_bad_json(data, model_zip, tmp_path, cartpole_venv):
    (tmp_path / "model.zip").write_bytes(with_data(model_zip, data))
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"model\.zip"):
        load_policy("ppo", cartpole_venv, path=tmp_path)
    assert time.perf_counter() - started < 1


def test_what_zlib_cannot_unpack_is_corrupt():
    content = zipped(("a", b"1234" * 100), compression=zipfile.ZIP_DEFLATED)
    broken = bytearray(content)
    broken[31] ^= 0xFF
    with open_zip(bytes(broken), "it", max_members=2) as archive, pytest.raises(CorruptFileError):
        archive.read("a", 1 << 20)
