"""What ``torch.save`` wrote of tensors and plain values, read without an unpickler.

The pickle inside is interpreted as data (`_inert_pickle`). Tensors are copied out of their storages here, each size,
stride and offset checked against the bytes that are there; ``torch.load`` trusts the sizes that a file states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from understudy.errors import CorruptFileError, UntrustedFileError
from understudy.policies._bounded_zip import BoundedZip, corrupt, open_zip
from understudy.policies._inert_pickle import Call, MalformedPickleError, Name, Persistent, read_inert

_MAX_MEMBERS = 20_000
_MAX_PICKLE = 1 << 24
_MAX_VALUES = 120_000  # as many as a pickle of so many opcodes has, unless it repeats what it holds
_MAX_DEPTH = 16
_MAX_NUMBER = 1 << 48  # shapes, strides and offsets: no storage has more elements
_STORAGES: Mapping[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_DTYPES: Mapping[str, torch.dtype] = {
    **{
        str(dtype): dtype
        for dtype in (
            *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
            *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
        )
    },
    "torch.double": torch.float64,
    "torch.float": torch.float32,
    "torch.half": torch.float16,
    "torch.long": torch.int64,
    "torch.int": torch.int32,
    "torch.short": torch.int16,
}
"""A table: looking a name up in torch itself would import what is loaded lazily there."""


def read_torch_archive(content: bytes, what: str) -> Any:
    """Dicts, lists, tuples, plain values and tensors on the CPU.

    Raises:
        CorruptFileError: damaged.
        UntrustedFileError: it holds something else, which only running it could restore.
    """
    if content[:2] != b"PK":
        raise UntrustedFileError(
            f"tensors in the zip form of torch 1.6 and later in {what}",
            "an older pickle" if content[:1] == b"\x80" else "something else",
            "pass trust='pickle' if you know who made it",
        )
    with open_zip(content, what, max_members=_MAX_MEMBERS, stored_only=True) as archive:
        roots = {name.split("/")[0] for name in archive.names}
        if len(roots) != 1:
            raise corrupt(f"one folder in {what}", f"{len(roots)}")
        root = roots.pop()
        order = f"{root}/byteorder"
        if order in archive and archive.read(order, 16) != b"little":
            raise corrupt(f"little-endian tensors in {what}", "another byte order")
        try:
            found = read_inert(archive.read(f"{root}/data.pkl", _MAX_PICKLE))
            return _Reader(archive, root, what).value(found, 0)
        except MalformedPickleError as err:
            raise corrupt(f"a readable description of the tensors in {what}", str(err)) from err
        except (
            *(TypeError, ValueError, KeyError, IndexError, AttributeError),
            *(OverflowError, RuntimeError, RecursionError),
        ) as err:
            if isinstance(err, CorruptFileError | UntrustedFileError):
                raise
            first_line = str(err).partition("\n")[0]  # torch adds a trace of its own C++
            raise corrupt(f"tensors in {what}", f"{type(err).__name__}: {first_line}") from err


class _Reader:
    def __init__(self, archive: BoundedZip, root: str, what: str) -> None:
        self._archive = archive
        self._root = root
        self._what = what
        self._storages: dict[str, torch.Tensor] = {}
        self._tensors: dict[tuple[Any, ...], torch.Tensor] = {}
        self._values = 0
        self._bytes_left = 2 * sum(archive.size(name) for name in archive.names)

    def value(self, found: Any, depth: int) -> Any:
        """What an inert value stands for."""
        self._values += 1
        if self._values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ValueError("too many values, or too deep")
        if found is None or isinstance(found, bool | int | float | str):
            return found
        if isinstance(found, list | tuple):
            return type(found)(self.value(each, depth + 1) for each in found)
        if isinstance(found, dict):
            return {key: self.value(each, depth + 1) for key, each in found.items()}
        if isinstance(found, Call):
            return self._restore(found, depth)
        if isinstance(found, Name) and str(found) in _DTYPES:
            return _DTYPES[str(found)]
        raise self._unknown(found)

    def _restore(self, call: Call, depth: int) -> Any:
        if call.name == "collections.OrderedDict" and not call.arguments:  # its state is torch's _metadata: versions
            return self._mapping(call, depth, str)
        if call.name == "collections.defaultdict":
            return self._mapping(call, depth, str | int)
        if call.name in {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}:
            return self.value(call.arguments[0], depth + 1)
        if call.name == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*call.arguments[:4])
        raise self._unknown(call)

    def _mapping(self, call: Call, depth: int, keys: Any) -> dict[Any, Any]:
        if not all(isinstance(key, keys) for key, _ in call.items):  # before any of them is hashed
            raise ValueError("a dict whose keys are neither names nor numbers")
        return {key: self.value(each, depth + 1) for key, each in call.items}

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> torch.Tensor:
        flat = self._storage(storage)
        if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 16):
            raise ValueError("a tensor without shape or strides")
        if not all(type(number) is int and 0 <= number < _MAX_NUMBER for number in (offset, *shape, *strides)):
            raise ValueError("a tensor whose shape, strides or offset are none")
        count = math.prod(shape)
        if count == 0:
            return torch.empty([0], dtype=flat.dtype).reshape(shape)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= flat.numel() or count > flat.numel():  # also no tensor that repeats few bytes many times
            raise ValueError(f"a tensor of {count} elements up to {last} in a storage of {flat.numel()}")
        key = (flat.data_ptr(), flat.dtype, shape, strides, offset)  # networks that share an extractor share tensors
        if key not in self._tensors:
            self._bytes_left -= count * flat.element_size()
            if self._bytes_left < 0:
                raise ValueError("tensors larger than the file")
            strided = flat.as_strided(shape, strides, offset)
            self._tensors[key] = strided.clone(memory_format=torch.contiguous_format)
        return self._tensors[key]

    def _storage(self, reference: Any) -> torch.Tensor:
        if not isinstance(reference, Persistent) or not isinstance(reference.identity, tuple):
            raise ValueError("a tensor without storage")
        tag, kind, key, _, count = reference.identity
        dtype = _STORAGES.get(str(kind)) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(tag, str) or tag != "storage":
            raise self._unknown(kind)
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < _MAX_NUMBER:
            raise ValueError("a storage without name or size")
        name = f"{self._root}/data/{key}"
        if name not in self._storages:
            content = self._archive.read(name, self._archive.size(name) if name in self._archive else 0)
            array = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
            self._storages[name] = torch.from_numpy(array.copy())
        raw = self._storages[name]
        if raw.numel() != count * dtype.itemsize:
            raise ValueError(f"a storage of {count} elements in {raw.numel()} bytes")
        return raw.view(dtype) if raw.numel() else torch.empty(0, dtype=dtype)

    def _unknown(self, found: Any) -> UntrustedFileError:
        name = found.name if isinstance(found, Call) else str(found) if isinstance(found, Name) else ""
        return UntrustedFileError(
            f"tensors and plain values in {self._what}",
            f"{(name or type(found).__name__)[:100]!r}, which could only be restored by running it",
            "pass trust='pickle' if you know who made it",
        )
