"""Small files that ask for much: sizes that are not there, ratios, depth, and layers, spaces and lists without end."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tools.formats import FORMATS, policy, state
from tools.hostile_archives import model_members, npy, zipped
from tools.hostile_datasets import STREAM, episode, resum
from tools.hostile_policies import safetensors_header, with_spec
from understudy.data import serialize
from understudy.policies import serialize as policies
from understudy.util import checkpoint
from understudy.util.manifest import MANIFEST

TERABYTES = 1 << 45
Bomb = tuple[str, Path]


def build(folder: Path) -> list[Bomb]:
    """All bombs, written; together a few tens of MB."""
    folder.mkdir()
    makers: tuple[Callable[[Path], Iterator[Bomb]], ...] = (
        _arrays,
        _arrow_folders,
        _texts,
        _policy_files,
        _models,
        _pickles,
        _checkpoints,
    )
    return [bomb for maker in makers for bomb in maker(folder)]


def _written(folder: Path, files: Mapping[str, bytes]) -> Iterator[Bomb]:
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        yield name, path


def _header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _claiming(name: str, size: int) -> bytes:
    """A zip whose directory claims ``size`` bytes for a member of eight."""
    content = zipped([(name, b"8 bytes.")])
    where = content.index(b"PK\x01\x02")
    return content[: where + 20] + struct.pack("<II", size, size) + content[where + 28 :]


def _zeros(n: int) -> bytes:
    """A deflated archive of one array of ``n`` zero bytes, compressed about 1,000:1, written in pieces."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("obs.npy", "w", force_zip64=True) as member:
            member.write(_header((n // 16, 4)))
            for _ in range(n >> 24):
                member.write(bytes(1 << 24))
        archive.writestr("acts.npy", npy(np.zeros(n // 16, np.int8)))
    return buffer.getvalue()


def _arrays(folder: Path) -> Iterator[Bomb]:
    members = [(f"{name}.npy", _header((TERABYTES,)) + bytes(64)) for name in ("obs", "acts")]
    with_meta = [("meta.npy", _header((TERABYTES,), "|u1") + bytes(64))]
    deflated = zipped([("obs.npy", npy(np.zeros(1 << 27, np.int8)))], zipfile.ZIP_DEFLATED)  # 1,000:1
    twice = zipped([("obs.npy", deflated), ("acts.npy", deflated)], zipfile.ZIP_DEFLATED)  # again
    yield from _written(
        folder,
        {
            "npy-header-of-terabytes.npz": zipped(members),
            "npy-header-of-terabytes-deflated.npz": zipped(members, zipfile.ZIP_DEFLATED),
            "npy-header-of-terabytes-in-meta.npz": zipped(with_meta),
            "npy-header-overflows.npz": zipped([(name, _header((1 << 62, 1 << 62))) for name, _ in members]),
            "npy-header-negative.npz": zipped([(name, _header((-1, 4))) for name, _ in members]),
            "npy-text-of-gigabytes.npz": zipped([(n, _header((1,), f"<U{1 << 29}")) for n, _ in members]),
            "npy-header-nested.npz": zipped([(n, _nested_header()) for n, _ in members]),
            "npy-header-of-terabytes.npy": members[0][1],
            "zip-ratio-1000.npz": _zeros(1 << 27),
            "zip-nested-twice.npz": twice,
            "zip-claims-gigabytes.npz": _claiming("obs.npy", 0xFFFFFFF0),
            "zip-of-a-million-names.npz": zipped([(f"{i}.npy", b"") for i in range(60_000)]),
            "zip-overlapping.npz": _overlapping(),
        },
    )


def _nested_header() -> bytes:
    text = ("(" * 9000 + ")" * 9000).encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text


def _overlapping() -> bytes:
    """Many names in the directory for the same compressed megabytes."""
    kernel = zipped([("obs.npy", npy(np.zeros(1 << 26, np.int8)))], zipfile.ZIP_DEFLATED)
    start = kernel.index(b"PK\x01\x02")
    end = kernel.index(b"PK\x05\x06")
    entry, n = kernel[start:end], 1000
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, n, n, n * len(entry), start, 0)
    return kernel[:start] + entry * n + tail


def _saved(folder: Path, name: str) -> Path:
    path = folder / name
    serialize.save(path, [episode({})])
    return path


def _patched(folder: Path, name: str, old: bytes, new: bytes) -> Bomb:
    path = _saved(folder, name)
    content = (path / STREAM).read_bytes()
    assert content.count(old) >= 1
    (path / STREAM).write_bytes(content.replace(old, new))
    resum(path)
    return name, path


def _arrow_folders(folder: Path) -> Iterator[Bomb]:
    billion = struct.pack("<q", 10**9)
    yield _patched(folder, "arrow-offsets-of-a-billion", struct.pack("<2q", 0, 3), struct.pack("<q", 0) + billion)
    yield _patched(folder, "arrow-offsets-negative", struct.pack("<2q", 0, 2), struct.pack("<2q", 0, -(1 << 62)))
    path = _saved(folder, "arrow-body-of-terabytes")
    content = bytearray((path / STREAM).read_bytes())
    at = content.index(b"\xff\xff\xff\xff", 8)  # the record batch's message
    content[at + 4 : at + 8] = struct.pack("<i", 0x7FFFFFF0)
    (path / STREAM).write_bytes(bytes(content))
    resum(path)
    yield path.name, path
    path = _saved(folder, "arrow-schema-of-gigabytes")
    content = bytearray((path / STREAM).read_bytes())
    content[4:8] = struct.pack("<i", 0x7FFFFFF0)
    (path / STREAM).write_bytes(bytes(content))
    resum(path)
    yield path.name, path
    for name, shape in (("arrow-frames-of-terabytes", [1 << 40]), ("arrow-many-axes", [1] * 5000)):
        path = _saved(folder, name)
        _with_shape(path / STREAM, shape)
        resum(path)
        yield name, path
    path = _saved(folder, "manifest-claims-a-billion")
    resum(path, n_trajectories=10**9, n_transitions=10**18)
    yield path.name, path
    yield _compressed(folder)


def _with_shape(stream: Path, shape: list[int]) -> None:
    """The same stream, whose metadata tells another shape of the observations."""
    with pa.ipc.open_stream(pa.memory_map(str(stream))) as reader:
        batches, schema = list(reader), reader.schema
    meta = json.loads(schema.metadata[b"understudy"])
    meta["obs"]["shape"] = shape
    schema = schema.with_metadata({"understudy": json.dumps(meta)})
    batches = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches]
    copy = stream.with_suffix(".copy")
    with pa.OSFile(str(copy), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    copy.replace(stream)


def _compressed(folder: Path) -> Bomb:
    """A hub's dataset whose buffers are compressed about 10,000:1 to 4 GB."""
    from tools.hostile_datasets import _hub_folder

    path = folder / "arrow-compressed"
    _hub_folder(path, {})
    n = 1 << 28
    names = ["obs", "acts", "infos", "terminal", "rews"]
    zeros = pa.array(np.zeros(n, np.int8))
    cell = pa.LargeListArray.from_arrays(pa.array([0, n], pa.int64()), zeros)
    batch = pa.RecordBatch.from_arrays([cell] * len(names), names)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path / STREAM), "wb") as sink, pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return path.name, path


def deep(n: int) -> str:
    """JSON nested ``n`` deep."""
    return "[" * n + "]" * n


def _texts(folder: Path) -> Iterator[Bomb]:
    for name, text in {
        "json-depth-100000": deep(100_000),
        "json-depth-1000000": deep(1_000_000),
        "json-objects-depth-100000": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "json-huge-number": '{"files": ' + "9" * 1_000_000 + "}",
        "json-million-keys": json.dumps({str(i): i for i in range(300_000)}),
    }.items():
        for file in (MANIFEST, "state.json"):
            path = _saved(folder, f"{name}-in-{file}")
            (path / file).write_text(text)
            if file != MANIFEST:
                resum(path)
            yield path.name, path
    path = folder / "infos-of-depth-100000"
    serialize.save(path, [episode({"deep": "x" * 200_000})])
    stream = path / STREAM
    old = json.dumps({"deep": "x" * 200_000}, separators=(",", ":")).encode()
    new = (deep(len(old) // 2) + " " * (len(old) % 2)).encode()
    stream.write_bytes(stream.read_bytes().replace(old, new))
    resum(path)
    yield path.name, path
    path = _saved(folder, "manifest-of-300000-files")
    entry = {"sha256": "0" * 64, "size": 0}
    files = ",\n".join(f'"{i}": {json.dumps(entry)}' for i in range(300_000))
    (path / MANIFEST).write_text(f'{{"files": {{{files}}}, "kind": "trajectories", "sha256": "{"0" * 64}"}}')
    yield path.name, path


def _policy_files(folder: Path) -> Iterator[Bomb]:
    def box(shape: list[int]) -> dict[str, Any]:
        return {"type": "Box", "shape": shape, "dtype": "float32", "low": 0, "high": 1}

    def parameters(**changes: Any) -> dict[str, Any]:
        return {"parameters": {"net_arch": [4], **changes}}

    specs: dict[str, Mapping[str, Any]] = {
        "layer-of-a-billion": parameters(net_arch=[10**9]),
        "layers-in-a-dict": parameters(net_arch={"dict": {"pi": [10**9], "vf": [10**9]}}),
        "layers-in-a-tuple": parameters(net_arch={"tuple": [10**9]}),
        "layer-as-float": parameters(net_arch=[1e9]),
        "a-million-layers": parameters(net_arch=[4] * 1_000_000),
        "features-of-a-billion": parameters(
            features_extractor_class={"class": "NatureCNN"}, features_extractor_kwargs={"dict": {"features_dim": 10**9}}
        ),
        "discrete-of-a-trillion": {"action_space": {"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"}},
        "discrete-of-ten-million": {"action_space": {"type": "Discrete", "n": 10**7, "start": 0, "dtype": "int64"}},
        "observations-discrete-of-a-billion": {
            "observation_space": {"type": "Discrete", "n": 10**9, "start": 0, "dtype": "int64"}
        },
        "multidiscrete-of-a-trillion": {
            "action_space": {"type": "MultiDiscrete", "shape": [2], "dtype": "int64", "nvec": 10**12, "start": 0}
        },
        "multidiscrete-of-many": {
            "action_space": {"type": "MultiDiscrete", "shape": [1 << 25], "dtype": "int64", "nvec": 2, "start": 0}
        },
        "multibinary-of-a-billion": {"action_space": {"type": "MultiBinary", "shape": [10**9]}},
        "box-of-a-trillion": {"observation_space": box([10**6, 10**6])},
        "box-of-32-million": {"observation_space": box([1 << 25])},
        "box-overflows": {"observation_space": box([1 << 32, 1 << 32])},
        "box-of-million-axes": {"observation_space": box([1] * 1_000_000)},
        "spaces-nested": {"observation_space": _nested_spaces(5000)},
        "spaces-many": {"observation_space": {"type": "Dict", "spaces": [[str(i), box([1])] for i in range(20_000)]}},
        "spaces-many-large": {
            "observation_space": {"type": "Dict", "spaces": [[str(i), box([1 << 24])] for i in range(50)]}
        },
        "extra-nested": {"extra": {"a": json.loads(deep(900))}},
        "parameters-nested": parameters(x=json.loads(deep(900))),
        "huge-learning-rate": {"learning_rate": 10**400},
    }
    good = folder / "policy.good"
    policies.save_policy(policy(1), good)
    for name, change in specs.items():
        path = folder / f"policy-{name}.safetensors"
        path.write_bytes(good.read_bytes())
        with_spec(path, change)
        yield path.name, path
    tensor = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    empty = {"dtype": "F32", "shape": [1 << 31, 1 << 31, 0], "data_offsets": [0, 0]}
    yield from _written(
        folder,
        {
            "safetensors-header-of-exabytes.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
            "safetensors-header-of-all.safetensors": struct.pack("<Q", (1 << 64) - 1) + b"{}",
            "safetensors-terabytes.safetensors": safetensors_header(json.dumps({"a": tensor}).encode(), bytes(64)),
            "safetensors-overflow.safetensors": safetensors_header(json.dumps({"a": empty}).encode()),
            "safetensors-deep.safetensors": safetensors_header(deep(100_000).encode()),
            "safetensors-many.safetensors": safetensors_header(
                json.dumps({str(i): {**tensor, "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}).encode()
            ),
        },
    )


def _nested_spaces(depth: int) -> dict[str, Any]:
    space: dict[str, Any] = {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}
    for _ in range(min(depth, 300)):  # json's own writer ends near 330 of these
        space = {"type": "Tuple", "spaces": [space]}
    return space


def _models(folder: Path) -> Iterator[Bomb]:
    good = model_members()
    data = json.loads(good["data"])

    def changed(**changes: Any) -> dict[str, bytes]:
        return {**good, "data": json.dumps({**data, **changes}).encode()}

    kwargs = {**data["policy_kwargs"], "net_arch": [10**9]}
    models: dict[str, dict[str, bytes]] = {
        "data-deep": {**good, "data": deep(1_000_000).encode()},
        "data-huge-number": {**good, "data": b'{"a":' + b"9" * 1_000_000 + b"}"},
        "layers": changed(policy_kwargs=kwargs),
        "discrete": changed(action_space={**data["action_space"], "n": str(10**12)}),
        "box": changed(observation_space={**data["observation_space"], "_shape": [10**6, 10**6]}),
        "weights-of-terabytes": {**good, "policy.pth": _weights(good["policy.pth"])},
    }
    for name, members in models.items():
        yield from _written(folder, {f"model-{name}.zip": zipped(members.items())})
    zeros = bytes(1 << 27)
    yield from _written(
        folder,
        {
            "model-weights-ratio.zip": zipped([*good.items(), ("policy.pth", zeros)][1:], zipfile.ZIP_DEFLATED),
            "model-data-ratio.zip": zipped([("data", b" " * (1 << 27)), *good.items()], zipfile.ZIP_DEFLATED),
        },
    )


def _weights(content: bytes) -> bytes:
    """Weights whose pickle claims a storage of terabytes: the counts of all storages and sizes made large."""
    import io

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(each for each in members if each.endswith("data.pkl"))
    large = b"\x8a\x06" + struct.pack("<Q", TERABYTES)[:6]  # LONG1
    members[name] = members[name].replace(b"K\x0c", large).replace(b"K\x04", large)
    return zipped(members.items())


def _pickles(folder: Path) -> Iterator[Bomb]:
    laughs = b"\x80\x04]\x94" + b"".join(b"](" + b"h%c" % i * 10 + b"e\x94" for i in range(30)) + b"."
    yield from _written(
        folder,
        {
            "vec_normalize-frame-of-exabytes.pkl": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
            "vec_normalize-text-of-exabytes.pkl": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"N.",
            "vec_normalize-bytes-of-gigabytes.pkl": b"\x80\x04B" + struct.pack("<I", 0xFFFFFFF0) + b"N.",
            "vec_normalize-bytearray.pkl": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"N.",
            "vec_normalize-memo-of-gigabytes.pkl": b"\x80\x04Nr" + struct.pack("<I", 0x7FFFFFFF) + b".",
            "vec_normalize-lists-of-lists.pkl": laughs,
            "vec_normalize-deep.pkl": b"\x80\x04" + b"](" * 500_000 + b"e" * 500_000 + b".",
            "vec_normalize-long-integer.pkl": b"\x80\x04\x8b" + struct.pack("<i", 0x7FFFFFF0) + b".",
            "vec_normalize-digits.pkl": b"I" + b"9" * 1_000_000 + b"\n.",
        },
    )


def _checkpoints(folder: Path) -> Iterator[Bomb]:
    for name, text in {
        "deep": deep(500_000),
        "deep-tuples": '{"$tuple":[' * 5000 + "1" + "]}" * 5000,
        "long-list": json.dumps([0] * 600_000),
        "many-names": json.dumps({"$items": [[i, i] for i in range(150_000)]}),
    }.items():
        path = folder / f"checkpoint-{name}"
        checkpoint.write_checkpoint(path, state(1), kind="test")
        (path / "state.json").write_text(text)
        resum(path)
        yield path.name, path
    tensor = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    for name, content in {
        "header-of-exabytes": struct.pack("<Q", 1 << 60) + b"{}",
        "tensors-of-terabytes": safetensors_header(json.dumps({"a": tensor}).encode(), bytes(64)),
    }.items():
        path = folder / f"checkpoint-{name}"
        checkpoint.write_checkpoint(path, state(1), kind="test")
        (path / "tensors.safetensors").write_bytes(content)
        resum(path)
        yield path.name, path
    path = folder / "checkpoint-sparse-terabyte"
    FORMATS["checkpoint"].save(path, 1)
    os.truncate(path / "tensors.safetensors", 1 << 40)
    yield path.name, path
