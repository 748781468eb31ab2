"""How large Parquet files get when they are read, found out before they are: their encodings repeat a value for free.

The figures are those of each file's own footer. A footer that lies about them is told only while the file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from understudy.errors import DataError

FREE_BYTES = 16 << 20
MAX_RATIO = 100
"""Files may unpack to ``FREE_BYTES`` in all, or this many times their own size, whichever is more."""

_MAX_CHUNKS = 100_000
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_LENGTH = 4
"""Bytes of an offset, of which a value takes one a list that it is in; the innermost is counted."""
_PLAIN_TEXT = frozenset({"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY"})
_DICTIONARIES = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})


def check_sizes(paths: Sequence[Path]) -> None:
    """Compare what Parquet files unpack to with what they are.

    Raises:
        DataError: beyond all proportion, or in an encoding whose size cannot be told.
        pyarrow.ArrowException, OSError: no Parquet file.
    """
    size = sum(path.stat().st_size for path in paths)
    limit = max(FREE_BYTES, MAX_RATIO * size)
    total = 0
    texts: list[tuple[Path, set[str]]] = []
    for path in paths:
        numbers, columns = _from_footer(path)
        total += numbers
        texts.append((path, columns))
    if total <= limit:  # only then may the indices of dictionaries be read
        for path, columns in texts:
            if columns:
                total += _of_texts(path, columns, limit - total)
    if total > limit:
        raise DataError(
            expected=f"Parquet files that unpack to at most {FREE_BYTES >> 20} MiB or {MAX_RATIO} times their size",
            got=f"{size} bytes in {paths[0]} that unpack to {total} or more",
            do="do not use them, unless you know whoever wrote them; then convert them with `datasets` yourself",
        )


def _from_footer(path: Path) -> tuple[int, set[str]]:
    """Bytes of all values but repeated texts, and the columns that have such."""
    total, texts = 0, set()
    with pq.ParquetFile(path) as file:
        footer = file.metadata
        if footer.num_row_groups * footer.num_columns > _MAX_CHUNKS:
            raise _strange(path, f"{footer.num_row_groups} row groups of {footer.num_columns} columns")
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for number in range(group.num_columns):
                column = group.column(number)
                kind, encodings = column.physical_type, set(column.encodings)
                width = _WIDTHS.get(kind, footer.schema.column(number).length if kind.startswith("FIXED") else 0)
                total += max(column.num_values * (width + _LENGTH), column.total_uncompressed_size, 0)
                if kind == "BYTE_ARRAY":
                    if strange := encodings - _PLAIN_TEXT - _DICTIONARIES:
                        raise _strange(path, f"text encoded as {sorted(strange)[0]}")
                    if encodings & _DICTIONARIES:
                        texts.add(column.path_in_schema)
    return total, texts


def _of_texts(path: Path, columns: set[str], room: int) -> int:
    """Bytes of texts of which each differing one is stored once; stops where there is no room left."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=sorted(columns)) as file:
        for number in range(file.metadata.num_row_groups):
            for column in file.read_row_group(number, columns=sorted(columns)).columns:
                total += sum(map(_repeated, column.chunks))
            if total > room:
                break
    return total


def _repeated(values: Any) -> int:
    while pa.types.is_nested(values.type):
        if pa.types.is_struct(values.type):
            return sum(map(_repeated, values.flatten()))
        values = values.flatten()
    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = pc.fill_null(pc.binary_length(values.dictionary), 0).to_numpy(zero_copy_only=False)
    indices = values.indices.drop_null().to_numpy(zero_copy_only=False)
    return int(np.dot(np.bincount(indices, minlength=len(lengths)), lengths.astype(np.int64))) if len(indices) else 0


def _strange(path: Path, got: str) -> DataError:
    return DataError(
        expected=f"a Parquet file in {path} as `datasets` writes them",
        got=got,
        do="write it again with `datasets`: Dataset.to_parquet",
    )
