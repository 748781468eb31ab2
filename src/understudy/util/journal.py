"""A journal: one JSON value a line, on the disk before ``append`` returns, each line with a sum over it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy.errors import CorruptFileError
from understudy.util.files import sync


class Journal:
    """Append-only lines in a file that a kill at any instant leaves readable.

    A last line that a kill cut short was never acknowledged: it is left out on reading, and removed before the next
    line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, value: Any) -> None:
        """Write one value (plain JSON); when this returns, it is on the disk."""
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        new = not self.path.exists()
        with self.path.open("w+b" if new else "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":  # cut short by a kill
                file.seek(0)
                end = self._complete(file.read())
                file.truncate(end)
            file.seek(end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self.path.parent)

    def __iter__(self) -> Iterator[Any]:
        """All values, in the order they were written; none if there is no file.

        Raises:
            CorruptFileError: a line is not as it was written; the message says which.
        """
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        lines = content[: self._complete(content)].split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            if not _is_whole(line):
                raise self._altered(number)
            try:
                yield json.loads(line[9:])
            except (ValueError, RecursionError) as err:
                raise self._altered(number) from err

    def _complete(self, content: bytes) -> int:
        """Where the last complete line ends."""
        end = content.rfind(b"\n") + 1
        if _is_whole(content[end:-1]):  # a whole line, and then something else than the end of a line
            raise self._altered(content.count(b"\n") + 1)
        return end

    def _altered(self, number: int) -> CorruptFileError:
        return CorruptFileError(
            expected=f"line {number} of {self.path} as it was written",
            got="altered bytes",
            do="restore the file from a copy, or cut it before that line",
        )


def _is_whole(line: bytes) -> bool:
    return line[:9] == b"%08x " % zlib.crc32(line[9:])
