"""Zip archives that may be hostile: everything is checked against the central directory before a byte is unpacked."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from understudy.errors import CorruptFileError, UntrustedFileError

MAX_DIRECTORY_BYTES = 1 << 22
MAX_RATIO = 50
MAX_INFLATED = 1 << 25
"""Bytes that all members may unpack to, beyond four times the archive's own size: models are stored, not packed."""
_SMALL = 1 << 20  # below this a high ratio is no danger: text packs well
_NAME = re.compile(r"[A-Za-z0-9_.\- ]+(/[A-Za-z0-9_.\- ]+)*")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


class BoundedZip:
    """The members of a checked archive."""

    def __init__(self, archive: zipfile.ZipFile, what: str) -> None:
        self._archive = archive
        self._what = what
        self._members = {info.filename: info for info in archive.infolist()}

    @property
    def names(self) -> list[str]:
        """Names of the members, in the order of the directory."""
        return list(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        return self._members[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """A member's bytes.

        Raises:
            CorruptFileError: missing, longer than ``limit``, or not what the directory says.
        """
        if name not in self._members:
            raise corrupt(f"a member {name!r} in {self._what}", f"only {', '.join(self.names[:20])}")
        size = self.size(name)
        if size > limit:
            raise corrupt(f"at most {limit} bytes of {name!r} in {self._what}", f"{size} bytes")
        try:
            with self._archive.open(self._members[name]) as member:
                content = member.read(size)
                if len(content) != size or member.read(1):
                    raise corrupt(f"{size} bytes of {name!r} in {self._what}", "another number of bytes")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as err:
            raise corrupt(f"an intact member {name!r} in {self._what}", f"{type(err).__name__}: {err}") from err
        return content


@contextmanager
def open_zip(
    source: BinaryIO | bytes, what: str, *, max_members: int, stored_only: bool = False
) -> Iterator[BoundedZip]:
    """Open an archive after checking it.

    Args:
        source: a file opened for reading, or the archive's bytes.
        what: how messages call it.
        max_members: more than this is refused.
        stored_only: refuse compressed members.

    Raises:
        CorruptFileError: no zip, truncated, or one that was not written by an ordinary program.
        UntrustedFileError: built to do harm: names that lead elsewhere, links, bombs, members on top of each other.
    """
    file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source
    _check_end(file, what, max_members)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError, struct.error) as err:
        raise corrupt(f"a zip archive at {what}", f"{type(err).__name__}: {err}") from err
    with archive:
        _check_members(archive, what, file.seek(0, io.SEEK_END), stored_only)
        yield BoundedZip(archive, what)


def corrupt(expected: str, got: str) -> CorruptFileError:
    """The error for a file that is damaged or was never written by an ordinary program."""
    return CorruptFileError(expected, got[:300], "restore the file from a copy, or save it again")


def _hostile(what: str, got: str) -> UntrustedFileError:
    return UntrustedFileError(f"an ordinary zip archive at {what}", got[:200], "do not use this file")


def _check_end(file: BinaryIO, what: str, max_members: int) -> None:
    """The number of members and the directory's size, before anything is read into lists."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size < _END.size or file.read(4) != b"PK\x03\x04":
        raise corrupt(f"a zip archive at {what}", f"{size} bytes that do not begin like one")
    file.seek(size - _END.size)
    magic, disk, first, here, members, length, offset, comment = _END.unpack(file.read(_END.size))
    if magic != b"PK\x05\x06" or comment != 0:
        raise corrupt(f"a whole zip archive at {what}", "no end of archive where the file ends: truncated or altered")
    end = size - _END.size
    if end >= _LOCATOR.size + _END64.size:
        file.seek(end - _LOCATOR.size)
        locator = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            end -= _LOCATOR.size + _END64.size
            file.seek(end)
            record = _END64.unpack(file.read(_END64.size))
            if record[0] != b"PK\x06\x06" or locator[2] != end:
                raise _hostile(what, "a zip64 record that is not where it should be")
            here, members, length, offset = record[6:]
            disk, first = record[4], record[5]
    if disk or first or here != members or members > max_members:
        raise _hostile(what, f"{members} members (at most {max_members} are read), on disk {disk}")
    if length > MAX_DIRECTORY_BYTES or offset + length != end:
        raise _hostile(what, f"a directory of {length} bytes at {offset}, in a file of {size} bytes")


def _check_members(archive: zipfile.ZipFile, what: str, size: int, stored_only: bool) -> None:
    total = sum(info.file_size for info in archive.infolist())
    if total > MAX_INFLATED + 4 * size:
        raise _hostile(what, f"{size} bytes that unpack to {total}")
    seen: set[str] = set()
    taken: list[tuple[int, int]] = []
    allowed = {zipfile.ZIP_STORED} if stored_only else {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    for info in archive.infolist():
        name = info.filename
        if name in seen:
            raise _hostile(what, f"two members named {name[:80]!r}")
        seen.add(name)
        if not _NAME.fullmatch(name) or any(part in {".", ".."} for part in name.split("/")) or len(name) > 255:
            raise _hostile(what, f"a member named {name[:80]!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise _hostile(what, f"{name!r}, a symbolic link")
        if info.flag_bits & 0x41:
            raise _hostile(what, f"{name!r}, which is encrypted")
        if info.compress_type not in allowed:
            raise _hostile(what, f"{name!r}, packed by method {info.compress_type}")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise _hostile(what, f"{name!r} with two sizes, {info.compress_size} and {info.file_size}")
        if info.file_size > max(_SMALL, MAX_RATIO * info.compress_size):
            raise _hostile(what, f"{name!r}, {info.compress_size} bytes that unpack to {info.file_size}")
        taken.append((info.header_offset, info.header_offset + 30 + len(name) + info.compress_size))
    taken.sort()
    bounds = [start for start, _ in taken[1:]] + [size]
    if any(end > following for (_, end), following in zip(taken, bounds, strict=True)):
        raise _hostile(what, "members that lie on top of each other")
