"""Images of expert datasets, each in a file of its own beside the archive that names it."""

from __future__ import annotations

import io
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from understudy.data._npz_members import UNREADABLE
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    FileWriteError,
    MissingExtraError,
    MissingFileError,
)
from understudy.util.files import sync

EXTENSIONS = {"png": "png", "jpg": "jpg", "jpeg": "jpg"}
_JPEG_QUALITY = 95
_MAX_PIXELS = 1 << 26
_MAX_FOLDERS = 64
_SYNCING = 16
_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
CHANNELS = tuple(_MODES.values())
"""How many an image in a file can have."""


def pillow() -> Any:
    """``PIL.Image``.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingExtraError("pillow", "video") from err
    return Image


def _as_stored(image: np.ndarray) -> np.ndarray:
    """The older library stored the first of four channels where readers of RGBA see blue; its own inverse."""
    return image[..., [2, 1, 0, 3]] if image.shape[2] == 4 else image


def encode(image: np.ndarray, extension: str) -> bytes:
    """The bytes of a file.

    Args:
        image: shape (height, width, channel), uint8, 1, 3 or 4 channels.
        extension: ``png``, which loses nothing, or ``jpg``, for 1 or 3 channels.
    """
    stored = np.ascontiguousarray(_as_stored(image))
    picture = pillow().fromarray(stored[:, :, 0] if stored.shape[2] == 1 else stored)
    out = io.BytesIO()
    if extension == "jpg":
        picture.save(out, format="JPEG", quality=_JPEG_QUALITY)
    else:
        picture.save(out, format="PNG", compress_level=1)  # a quarter of the time of 6, for a few per cent more bytes
    return out.getvalue()


def read_image(path: str) -> np.ndarray:
    """An image as an array of shape (height, width, channel), uint8.

    Raises:
        MissingFileError: no such file.
        CorruptFileError: not a complete PNG or JPEG, or of an absurd size.
        DataError: a kind of picture that is no observation, such as one with a palette.
        MissingExtraError: Pillow is not installed.
    """
    images = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", images.DecompressionBombWarning)
            with images.open(path, formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > _MAX_PIXELS:
                    raise ValueError(f"{picture.width} x {picture.height} pixels")
                mode = picture.mode
                array = np.array(picture) if mode in _MODES else None
    except FileNotFoundError as err:
        raise _missing([path]) from err
    except (*UNREADABLE, struct.error, images.DecompressionBombError, images.DecompressionBombWarning) as err:
        raise CorruptFileError(
            expected=f"a complete PNG or JPEG at {path}",
            got=f"{type(err).__name__}: {str(err)[:200]}",
            do="restore it from where it came from, or record the dataset again",
        ) from err
    if array is None:
        raise DataError(
            expected=f"a picture at {path} in grey, RGB or RGBA with 8 bits a channel",
            got=f"one of Pillow's mode {mode!r}",
            do="convert it, for example with PIL.Image.open(path).convert('RGB')",
        )
    return _as_stored(array.reshape(*array.shape[:2], _MODES[mode]))


def read_images(paths: np.ndarray) -> np.ndarray:
    """Images of one size, shape (image, height, width, channel), uint8.

    Raises:
        DataError: they differ in size, or do not fit into memory; and as ``read_image``.
    """
    first = read_image(str(paths[0]))
    try:
        out = np.empty((len(paths), *first.shape), np.uint8)
    except MemoryError as err:
        raise DataError(
            expected="images that fit into memory together",
            got=f"{len(paths)} of shape {first.shape}",
            do="take batches with ExpertDataset(path).get_next_batch('train'), or use fewer with traj_limitation",
        ) from err
    for row, path in enumerate(paths):
        image = first if row == 0 else read_image(str(path))
        if image.shape != first.shape:
            raise DataError(
                expected=f"images of one shape, {first.shape} as in {paths[0]}",
                got=f"{image.shape} in {path}",
                do="record the dataset again, or scale them to one size",
            )
        out[row] = image
    return out


class ImageWriter:
    """Writes images under numbers that are free, so that no file of an earlier recording is ever replaced.

    What it writes belongs to nothing until an archive names it.
    """

    def __init__(self, beside: Path, folder: str, extension: str) -> None:
        """``folder`` is relative to ``beside``, the archive's own folder."""
        relative = PurePosixPath(Path(folder).as_posix())
        if relative.is_absolute() or ".." in relative.parts:
            raise ConfigError(
                expected="`image_folder` as a name, or names, below the archive's folder",
                got=f"{folder!r}",
                do="pass for instance image_folder='recorded_images': archive and images then move together",
            )
        pillow()
        self._relative = relative
        self._folder = beside / relative
        self._extension = extension
        self._number = 0
        self._written: list[Path] = []

    def add(self, image: np.ndarray) -> str:
        """Write one; its name relative to the archive's folder."""
        content = encode(image, self._extension)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = self._write(content)
        except OSError as err:
            raise FileWriteError(
                expected=f"to write images into {self._folder}",
                got=f"{type(err).__name__}: {err}",
                do="make room, or choose a place that can be written to; what stood there is untouched",
            ) from err
        return str(self._relative / name)

    def _write(self, content: bytes) -> str:
        while True:
            name = f"{self._number}.{self._extension}"
            path = self._folder / name
            self._number += 1
            try:
                file = path.open("xb")
            except FileExistsError:
                continue
            self._written.append(path)
            with file:
                file.write(content)
            return name

    def sync(self) -> None:
        """Wait until all of them are on the disk."""
        if not self._written:
            return
        with ThreadPoolExecutor(_SYNCING) as pool:  # a disk that is asked for many at once writes them together
            for _ in pool.map(sync, self._written):
                pass
        sync(self._folder)

    def remove(self, name: str) -> None:
        """Take back one that ``add`` wrote."""
        path = self._folder / PurePosixPath(name).name
        self._written.remove(path)
        path.unlink(missing_ok=True)


def located(names: np.ndarray, folder: Path | None) -> np.ndarray:
    """Absolute paths of the images that an archive in ``folder`` names.

    Older archives name them from the directory they were written in, or from the root: the end of such a name leads
    to the file when archive and images were moved together. Nothing outside ``folder`` is ever opened, nor a link.

    Args:
        names: shape (image,), text.
        folder: the archive's; ``None`` for names that the caller vouches for, which start at the working directory.

    Raises:
        MissingFileError: images that are not there.
        DataError: names of far too many folders.
    """
    if folder is None:
        paths = [os.path.abspath(str(name)) for name in names]  # noqa: PTH100 - 100,000 of them
        if missing := [path for path in paths if not os.path.isfile(path)]:  # noqa: PTH113
            raise _missing(missing)
        return np.array(paths, dtype=str)
    base = Path(os.path.realpath(folder))
    split = [str(name).replace("\\", "/").rpartition("/") for name in names]
    found: dict[str, tuple[Path, set[str]]] = {}
    for parent, slash, file in split:
        if parent + slash not in found:
            if len(found) == _MAX_FOLDERS:
                raise DataError(
                    expected=f"images in at most {_MAX_FOLDERS} folders", got="more", do="put them into one folder"
                )
            found[parent + slash] = _folder_of(base, parent, file)
    missing = [str(name) for name, (p, s, file) in zip(names, split, strict=True) if file not in found[p + s][1]]
    if missing:
        raise _missing(missing, f", relative to {base},")
    return np.array([str(found[parent + slash][0] / file) for parent, slash, file in split], dtype=str)


def _folder_of(base: Path, parent: str, file: str) -> tuple[Path, set[str]]:
    """The longest end of ``parent`` that is a folder below ``base`` with ``file`` in it, and the files there."""
    parts = [part for part in parent.split("/")[-_MAX_FOLDERS:] if part not in ("", ".")]
    for start in range(len(parts) + 1):
        candidate = base.joinpath(*parts[start:])
        try:
            real = Path(os.path.realpath(candidate))
            if ".." in parts[start:] or not (real == base or base in real.parents):
                continue
            with os.scandir(real) as entries:
                files = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        except (OSError, ValueError):  # no such folder, or no name that one can have
            continue
        if file in files:
            return real, files
    return base, set()


def _missing(names: list[str], where: str = "") -> MissingFileError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return MissingFileError(
        expected="the images that the expert dataset names",
        got=f"no file {names[0]}{where}{more}",
        do="put the folder of images back beside the archive",
    )
