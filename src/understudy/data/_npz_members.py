"""Arrays in a ``.npz`` of unknown origin: no size that a header tells is believed before the file bears it out."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from understudy.errors import CorruptFileError

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,  # a flipped "encrypted" flag, an unknown zip version, nesting
    IndexError,
    MemoryError,  # what Python's parser raises for nesting
    tokenize.TokenError,
    SyntaxError,
)
"""What reading a damaged archive may raise."""

_MAX_HEADER = 10_000
_MAX_MEMBERS = 1_000
_MAX_ENTRY = 1_000
"""Bytes of the directory that a member may take: 46, its name, and what writers add."""
_FREE_BYTES = 16 << 20
_MAX_RATIO = 100
"""An archive may inflate to ``_FREE_BYTES`` in all, or this many times its own size, whichever is more."""


_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = 20


class Header(NamedTuple):
    """What the head of an array's member tells."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


class Members:
    """An open archive; a context manager.

    Raises:
        ValueError and others of ``UNREADABLE``: no zip archive, or one that inflates beyond all proportion.
    """

    def __init__(self, path: Path, *, compressed: bool = True) -> None:
        """``compressed``: whether members may be."""
        self._size = path.stat().st_size
        count = _check_directory(path)
        self._archive = zipfile.ZipFile(path)
        infos = self._archive.infolist()
        if len(infos) != count:
            raise ValueError(f"{len(infos)} members, {count} told")
        limit = max(_FREE_BYTES, _MAX_RATIO * self._size) if compressed else math.inf
        for info in infos:
            if info.compress_type not in (zipfile.ZIP_STORED, *((zipfile.ZIP_DEFLATED,) if compressed else ())):
                raise ValueError(f"member {info.filename!r} is compressed")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size > self._size:
                raise ValueError(f"member {info.filename!r} is larger than the file")
        if (total := sum(info.file_size for info in infos)) > limit:
            raise ValueError(f"{self._size} bytes that inflate to {total}, more than {_MAX_RATIO} to 1")
        self.names = [info.filename.removesuffix(".npy") for info in infos if info.filename.endswith(".npy")]

    def __enter__(self) -> Members:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._archive.close()

    def _open(self, name: str) -> io.BufferedIOBase:
        return _buffered(self._archive.open(f"{name}.npy"))

    def header(self, name: str) -> Header:
        """Shape and type; no array is read."""
        with self._open(name) as file:
            return read_header(file)

    def read(self, name: str) -> np.ndarray:
        """One array of plain numbers, read-only; its checksum is compared."""
        info = self._archive.getinfo(f"{name}.npy")
        with _buffered(self._archive.open(info)) as file:
            shape, fortran, dtype = read_header(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or dtype.itemsize == 0 or size != info.file_size - file.tell():
                raise ValueError(f"member {name!r} does not fit its header")
            data = file.read()  # to the end, where the checksum is compared
        if len(data) != size:
            raise ValueError(f"member {name!r} does not fit its header")
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")

    def read_objects(self, name: str, unpickle: Callable[[io.BufferedIOBase], Any]) -> np.ndarray:
        """One array of objects; ``unpickle`` runs what is stored in it."""
        with self._open(name) as file:
            header = read_header(file)
            array = np.asarray(unpickle(file), dtype=object)
        return array.reshape(header.shape, order="F" if header.fortran else "C")


def _buffered(file: Any) -> io.BufferedIOBase:
    assert isinstance(file, io.BufferedIOBase)  # what `zipfile` opens for reading
    return file


def read_header(file: io.BufferedIOBase) -> Header:
    """Shape and type of an array in NumPy's own format; ``file`` stands at its data afterwards.

    Raises:
        ValueError and others of ``UNREADABLE``: not that format, or a header of an absurd size.
    """
    version = npy.read_magic(file)
    width = {(1, 0): 2, (2, 0): 4, (3, 0): 4}[version]
    told = file.read(width)
    length = int.from_bytes(told, "little")
    if len(told) != width or length > _MAX_HEADER:
        raise ValueError("a header of an unknown size")
    content = io.BytesIO(told + file.read(length))
    read = npy.read_array_header_1_0 if width == 2 else npy.read_array_header_2_0
    shape, fortran, dtype = read(content)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a header without a shape")
    return Header(shape, fortran, dtype)


def _check_directory(path: Path) -> int:
    """How many members there are; told by the archive's end and borne out by the length of its directory.

    A directory of millions takes long to read, so this comes before it is. NumPy writes no comment behind the end.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size < _END.size:
            raise zipfile.BadZipFile("no end of an archive")
        file.seek(size - _END.size)
        magic, _, _, _, count, length, _, _ = _END.unpack(file.read(_END.size))
        if magic != b"PK\x05\x06":
            raise zipfile.BadZipFile("no end of an archive at the end of the file")
        large = size - _END.size - _LOCATOR - _END64.size
        if large >= 0:
            file.seek(large)
            magic, _, _, _, _, _, _, count64, length64, _ = _END64.unpack(file.read(_END64.size))
            if file.read(4) == b"PK\x06\x07":  # a locator, which points to what stands before it
                if magic != b"PK\x06\x06":
                    raise zipfile.BadZipFile("no end of a large archive before its locator")
                count, length = count64, length64
    if count > _MAX_MEMBERS:
        raise ValueError(f"{count} members")
    if length > count * _MAX_ENTRY:
        raise ValueError(f"a directory of {length} bytes for {count} members")
    return int(count)


def unreadable(path: Path, err: BaseException) -> CorruptFileError:
    """For an archive that raised one of ``UNREADABLE``."""
    return CorruptFileError(
        expected=f"a complete npz of arrays in {path}",
        got=f"{type(err).__name__}: {str(err)[:200]}",
        do="restore it from where it came from, or record and save the data again",
    )
