"""Arrow streams of unknown origin: what a reader of numbers and text does not need is refused before it is touched.

Extension types may name code, dictionaries and compressed buffers may grow to any size when they are decoded. None of
these is in the streams that trajectories are stored in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from understudy.errors import CorruptFileError, DataError, UntrustedFileError


def _field(table: memoryview, position: int, number: int) -> int:
    """Where field ``number`` of a FlatBuffers table stands, or 0 if it is not there."""
    (back,) = struct.unpack_from("<i", table, position)
    entry = 4 + 2 * number
    (size,) = struct.unpack_from("<H", table, position - back)
    (offset,) = struct.unpack_from("<H", table, position - back + entry) if entry < size else (0,)
    return position + offset if offset else 0


def _is_compressed(metadata: memoryview) -> bool:
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = _field(metadata, message, 2)
    (offset,) = struct.unpack_from("<I", metadata, header)
    return _field(metadata, header + offset, 3) != 0


def _is_plain(kind: Any) -> bool:
    types = pa.types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    tests = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


def read_stream(path: Path) -> tuple[Any, Iterator[Any]]:
    """Schema and record batches of a stream, mapped into memory, not copied.

    Raises:
        UntrustedFileError: extension types.
        DataError: other columns than numbers, booleans and text, and lists of these; or compressed ones.
        pyarrow.ArrowException, OSError, CorruptFileError: no stream; also while iterating.
    """
    reader = pa.ipc.MessageReader.open_stream(pa.memory_map(str(path), "r"))
    try:
        first = reader.read_next_message()
    except StopIteration:
        raise _no_stream(path, "an empty file") from None
    if first.type != "schema":
        raise _no_stream(path, f"a {first.type} at its beginning")
    if b"ARROW:extension" in first.metadata.to_pybytes():  # before the schema is read: that may call registered types
        raise UntrustedFileError(
            expected=f"columns of numbers and text in {path}",
            got="Arrow extension types, which may name code",
            do="write its storage columns: column.storage, without the extension type",
        )
    schema = pa.ipc.read_schema(first)
    if strange := [field.name for field in schema if not _is_plain(field.type)]:
        raise DataError(
            expected=f"columns of numbers, booleans or text, and lists of these, in {path}",
            got=f"column {strange[0][:40]!r} of type {str(schema.field(strange[0]).type)[:60]}",
            do="convert the column before saving, or drop it",
        )
    return schema, _batches(reader, schema, path)


def _batches(reader: Any, schema: Any, path: Path) -> Iterator[Any]:
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type != "record batch":
            raise _no_stream(path, f"a {message.type} among its record batches")
        try:
            compressed = _is_compressed(memoryview(message.metadata))
        except struct.error as err:
            raise _no_stream(path, "an unreadable message") from err
        if compressed:
            raise DataError(
                expected=f"an uncompressed Arrow stream in {path}",
                got="compressed buffers",
                do="write it without `compression`; `datasets` does so",
            )
        yield pa.ipc.read_record_batch(message, schema)


def _no_stream(path: Path, got: str) -> CorruptFileError:
    return CorruptFileError(
        expected=f"a complete Arrow stream of trajectories in {path}",
        got=got,
        do="restore it from where it came from, or record and save the data again",
    )
