"""Zips and torch files made to do harm, and pickles read as data."""

from __future__ import annotations

import base64
import collections
import io
import json
import os
import pickle
import random
import stat
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from _clock import cpu_seconds
from stable_baselines3 import PPO

from understudy.errors import ConfigError, CorruptFileError, UntrustedFileError
from understudy.policies._bounded_zip import open_zip
from understudy.policies._inert_pickle import Call, MalformedPickleError, Name, Persistent, read_inert
from understudy.policies._torch_archive import read_torch_archive
from understudy.policies.serialize import load_policy, load_saved_policy, load_stable_baselines_model
from understudy.policies.vec_normalize import load_vec_normalize

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
    started = cpu_seconds()
    with pytest.raises(REFUSED, match="it"), open_zip(content, "it", max_members=2) as archive:
        archive.read("a", 1 << 40)
    assert cpu_seconds() - started < 1


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
    started = cpu_seconds()
    with pytest.raises(REFUSED, match="it"):
        read_torch_archive(content, "it")
    assert cpu_seconds() - started < 1
    assert list(tmp_path.iterdir()) == []


def doubling(levels: int) -> bytes:
    """A list of two of the list before, and so on: 2 ** levels in the end."""
    content = b"\x80\x04]q\x00"
    for level in range(levels):
        content += b"0](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1])
    return content + b"."


def test_lists_that_double_are_refused():
    assert len(read_inert(doubling(10))) == 2
    started = cpu_seconds()
    with pytest.raises(MalformedPickleError, match="values"):
        read_inert(doubling(100))
    with pytest.raises(CorruptFileError):
        read_torch_archive(torch_like(doubling(100)), "it")
    assert cpu_seconds() - started < 1


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
    started = cpu_seconds()
    with pytest.raises(ValueError, match=r"model\.zip"):
        load_policy("ppo", cartpole_venv, path=tmp_path)
    assert cpu_seconds() - started < 1


def test_what_zlib_cannot_unpack_is_corrupt():
    content = zipped(("a", b"1234" * 100), compression=zipfile.ZIP_DEFLATED)
    broken = bytearray(content)
    broken[31] ^= 0xFF
    with open_zip(bytes(broken), "it", max_members=2) as archive, pytest.raises(CorruptFileError):
        archive.read("a", 1 << 20)


def doubled_tuples(levels: int) -> bytes:
    """A tuple of two of the tuple before, and so on: hashing or showing it would visit 2 ** levels."""
    return b"N\x85" + b"2\x86" * levels


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SCALAR = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n"


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    "data",
    [
        doubled_tuples(26) + b"Q.",
        b"N" + b"\x85" * 50_000 + b"Q.",
        b"N\x85" + b"Q" * 50_000 + b".",
        b"ccollections\ndefaultdict\n)R(" + doubled_tuples(26) + b"Nu.",
        b"ccollections\ndefaultdict\n)R(" + b"N" + b"\x85" * 100_000 + b"Nu.",
        b"ccollections\ndefaultdict\n)R(" + doubled_tuples(5) + b"Nu.",
        tensor_pickle(strides=(2**70,), shape=(1,))[2:],
        tensor_pickle(shape=(0, 2**70), strides=(1, 1))[2:],
        tensor_pickle(shape=(0, 2**40), strides=(1, 1), offset=10**4000)[2:],
        tensor_pickle(kind="onnx")[2:],
        b"ctorch\n_inductor\n.",
        b"ctorch\nload\n.",
        b"ctorch._inductor\nx\n.",
    ],
    ids=range(13),
)
def test_small_pickles_that_would_cost_much(data):
    storage = np.arange(4, dtype="<f4").tobytes()
    modules = set(sys.modules)
    started = cpu_seconds()
    with pytest.raises(REFUSED, match="it") as caught:
        read_torch_archive(torch_like(b"\x80\x04" + data, ("0", storage)), "it")
    assert cpu_seconds() - started < 1.5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert set(sys.modules) == modules


def test_types_of_torch_come_from_a_table():
    value = {"a": torch.float32, "b": torch.long, "c": torch.bool}
    assert read_torch_archive(torch_bytes(value), "it") == value


@pytest.mark.fault("F6")
def test_shared_dicts_are_not_copied_without_end():
    """700 times a list of 700 times one dict: half a million dicts out of 2 kB."""
    data = b"\x80\x04}K\x01Ns\x940]\x94(" + b"h\x00" * 700 + b"e0}" + text("x") + b"](" + b"h\x01" * 700 + b"es."
    assert len(read_inert(data)["x"]) == 700
    with pytest.raises(CorruptFileError, match="too many values"):
        read_torch_archive(torch_like(data), "it")


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    "body",
    [
        text("clip_obs") + doubled_tuples(26),
        text("clip_obs") + doubled_tuples(8),
        text("gamma") + SCALAR + b")R" + text("") + b"tR",
        text("gamma") + SCALAR + doubled_tuples(26) + b"\x85R" + text("") + b"tR",
        text("gamma") + SCALAR + doubled_tuples(8) + b"\x85R" + text("") + b"tR",
        text("gamma") + b"L1" + b"0" * 4000 + b"L\n",
        text("norm_obs_keys") + doubled_tuples(8),
    ],
    ids=range(7),
)
def test_statistics_made_to_do_harm(body, tmp_path, cartpole_venv):
    path = tmp_path / "vec_normalize.pkl"
    path.write_bytes(b"\x80\x04cstable_baselines3.common.vec_env.vec_normalize\nVecNormalize\n)\x81}(" + body + b"ub.")
    started = cpu_seconds()
    with pytest.raises(CorruptFileError) as caught:
        load_vec_normalize(path, cartpole_venv)
    assert cpu_seconds() - started < 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "body", [SCALAR + b")R" + text("") + b"tR", SCALAR + doubled_tuples(26) + b"\x85R" + text("") + b"tR"]
)
def test_a_number_in_a_crooked_pickle_is_left_out(body, model_zip, tmp_path, cartpole_venv):
    with zipfile.ZipFile(io.BytesIO(model_zip)) as archive:
        data = json.loads(archive.read("data"))
    data["gamma"] = {
        ":type:": "<class 'numpy.float64'>",
        ":serialized:": base64.b64encode(b"\x80\x04" + body + b".").decode(),
    }
    (tmp_path / "model.zip").write_bytes(with_data(model_zip, json.dumps(data).encode()))
    with pytest.warns(UserWarning, match="gamma"):
        model = load_stable_baselines_model(PPO, tmp_path, cartpole_venv, device="cpu")
    assert model.gamma == 0.99


@pytest.mark.fault("F6")
def test_members_that_unpack_to_much_together():
    """Each is within its own limit; 40 MB together are more than 32 MiB and four times the file."""
    noise = np.random.default_rng(0).bytes(50_000)
    content = zipped(*((f"m{i}", noise + bytes(2_000_000)) for i in range(20)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UntrustedFileError, match="unpack to 41000000"), open_zip(content, "it", max_members=20):
        pass


DICT_TYPE = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", ":serialized:": ""}


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "parts",
    [
        [f"'k{i}': Box(0, 1, (1048576,), float64)" for i in range(20)],
        [f"'k{i}': Discrete(2)" for i in range(5000)],
        ["'k': Box(0, 1, (-1, -1048576), float64)"],
        ["'k': MultiBinary([100000000, 100000000])"],
    ],
    ids=range(4),
)
def test_spaces_that_are_large_together(parts, model_zip, tmp_path):
    with zipfile.ZipFile(io.BytesIO(model_zip)) as archive:
        data = json.loads(archive.read("data"))
    data["observation_space"] = {**DICT_TYPE, "spaces": "{" + ", ".join(parts) + "}"}
    path = tmp_path / "model.zip"
    path.write_bytes(with_data(model_zip, json.dumps(data).encode()))
    started = cpu_seconds()
    with pytest.raises(ConfigError, match="observation_space"):
        load_saved_policy(path)
    assert cpu_seconds() - started < 1.5


@pytest.mark.fault("F7")
def test_many_long_texts_cost_no_more_than_one(model_zip, tmp_path, cartpole_venv):
    with zipfile.ZipFile(io.BytesIO(model_zip)) as archive:
        data = json.loads(archive.read("data"))
    data["policy_kwargs"] = {":type:": "<class 'dict'>", ":serialized:": ""}
    data["policy_kwargs"] |= {f"a{i}": "[" + "1 " * 190_000 + "]" for i in range(20)}
    path = tmp_path / "model.zip"
    path.write_bytes(with_data(model_zip, json.dumps(data).encode()))
    started = cpu_seconds()
    with pytest.raises(ValueError, match="a1 = "):
        load_policy("ppo", cartpole_venv, path=path)
    assert cpu_seconds() - started < 3
