"""Manifests: the SHA-256 and size of each file in a folder, so that a changed byte is told before it is used."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from understudy.errors import CorruptFileError
from understudy.util.versions import installed_version

MANIFEST = "MANIFEST.json"
_MAX_BYTES = 2 << 20
_RESTORE = "restore it from where it came from, or record and save the data again"


class HashingFile:
    """A new file that knows the SHA-256 and size of what was written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> int:
        """Append bytes-like ``data``; returns its length in bytes."""
        self._sha256.update(data)
        view = memoryview(data)
        self._file.write(view)
        self._size += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; the sums stay readable."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._file.closed

    @property
    def entry(self) -> dict[str, Any]:
        """What a manifest says about this file."""
        return {"sha256": self._sha256.hexdigest(), "size": self._size}


def write_file(path: Path, text: str) -> dict[str, Any]:
    """Write a new UTF-8 file; returns its manifest entry."""
    file = HashingFile(path)
    try:
        file.write(text.encode())
    finally:
        file.close()
    return file.entry


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def manifest_text(entries: Mapping[str, Mapping[str, Any]], **facts: Any) -> str:
    """``MANIFEST.json``: each file's SHA-256 and size, ``facts``, and a sum over the manifest itself."""
    content = {"files": entries, "understudy": installed_version("understudy"), **facts}
    content["sha256"] = hashlib.sha256(_canonical(content).encode()).hexdigest()
    return _canonical(content)


def write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]], **facts: Any) -> None:
    """Write ``manifest_text`` into a folder that has none."""
    write_file(folder / MANIFEST, manifest_text(entries, **facts))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest's content, checked against its own sum.

    Raises:
        CorruptFileError: not the bytes that were written.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too long")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        written = content.pop("sha256")
        intact = hashlib.sha256(_canonical(content).encode()).hexdigest() == written
        intact = intact and text == _canonical({**content, "sha256": written})
        intact = intact and all({"sha256", "size"} == entry.keys() for entry in content["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CorruptFileError(expected=f"{path} as it was written", got="something unreadable", do=_RESTORE) from err
    if not intact:
        raise CorruptFileError(expected=f"{path} as it was written", got="altered content", do=_RESTORE)
    return dict(content)


class _Bar(tqdm):  # type: ignore[type-arg]
    # The usual lock is shared with forked processes: one that is killed while it holds it would block us for ever.
    _lock = threading.RLock()


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(1 << 22)
    view = memoryview(buffer)
    # Silent unless it takes more than a second.
    with (
        path.open("rb", buffering=0) as file,
        _Bar(total=size, unit="B", unit_scale=True, desc=f"verifying {path.name}", leave=False, delay=1) as bar,
    ):
        while n := file.readinto(buffer):
            digest.update(view[:n])
            bar.update(n)
    return digest.hexdigest()


def check_files(folder: Path, entries: Mapping[str, Mapping[str, Any]], *, hashes: bool) -> None:
    """Compare each file with its manifest entry; sizes always, contents if ``hashes``.

    Raises:
        CorruptFileError: a file is missing, of another size, or of another content; the message names it.
    """
    for name, entry in entries.items():
        path = folder / name
        if path.parent != folder or path.is_symlink() or not path.is_file():
            raise CorruptFileError(
                expected=f"the file {path}, listed in {MANIFEST}", got="no such file there", do=_RESTORE
            )
        size = path.stat().st_size
        if size != entry["size"]:
            raise CorruptFileError(expected=f"{entry['size']} bytes in {path}", got=f"{size} bytes", do=_RESTORE)
        if hashes and (sha256 := _sha256(path, size)) != entry["sha256"]:
            raise CorruptFileError(
                expected=f"SHA-256 {entry['sha256'][:12]}… of {path}", got=f"{sha256[:12]}…: altered bytes", do=_RESTORE
            )


def manifest_entry(path: Path) -> dict[str, Any]:
    """What a manifest says about a file that is there already."""
    size = path.stat().st_size
    return {"sha256": _sha256(path, size), "size": size}
