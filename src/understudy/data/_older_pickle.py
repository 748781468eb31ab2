"""Pickled trajectories, read only where the caller trusts them: reading runs what is stored.

Classes of `imitation` are read as plain records, so that it need not be installed; those of `gym` are looked for in
`gymnasium`, and NumPy's under the names of its newer versions.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from understudy.data.dict_obs import DictObs
from understudy.data.types import Trajectory, TransitionsMinimal, dataclass_quick_asdict
from understudy.errors import CorruptFileError, DataError, UnderstudyError, UntrustedFileError

TRUST = "pickle"


def untrusted(path: Path, got: str) -> UntrustedFileError:
    """For files that would have to be trusted."""
    return UntrustedFileError(
        expected=f"arrays and JSON in {path}",
        got=f"{got}, which runs code when it is read",
        do='if you trust whoever wrote it: understudy.data.serialize.load(path, trust="pickle")',
    )


def is_pickle(path: Path) -> bool:
    """Whether a file begins and ends as pickles since protocol 2 do; damaged ones are not told from other files."""
    with path.open("rb") as file:
        head = file.read(2)
        if len(head) < 2 or head[0] != 0x80 or not 2 <= head[1] <= 5:
            return False
        file.seek(-1, io.SEEK_END)
        return file.read(1) == b"."


class Record:
    """An object of a class that need not exist here: what it was made from, and its attributes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        record = object.__new__(cls)
        record.args = args
        record.fields = dict(kwargs)
        return record

    args: tuple[Any, ...] = ()
    fields: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        """Attributes, of which those in slots are the second of two."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.fields = {**self.fields, **part}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        package, _, rest = module.partition(".")
        if package == "imitation":
            return type(name, (Record,), {"__module__": module})
        if package == "gym" and importlib.util.find_spec("gym") is None:
            module = f"gymnasium.{rest}".rstrip(".")
        elif package == "numpy" and rest.partition(".")[0] == "core":
            module = f"numpy._{rest}"
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as err:
            raise DataError(
                expected=f"classes that can be imported, named in the pickle {self._path}",
                got=f"{module}.{name}: {err}",
                do=f"install {package!r} in the version that wrote the file, or save without this object",
            ) from err


def unpickle(file: io.BufferedIOBase, path: Path) -> Any:
    """What is pickled in ``file``. **Runs what is stored there.**

    Raises:
        CorruptFileError: truncated or altered.
        DataError: it names a class that is not installed.
    """
    try:
        return _Unpickler(file, path).load()
    except UnderstudyError:
        raise
    except Exception as err:  # whatever the stored code raises
        raise CorruptFileError(
            expected=f"a complete pickle in {path}",
            got=f"{type(err).__name__}: {err}",
            do="restore it from where it came from, or record and save the data again",
        ) from err


_OLDEST = ("acts", "obs", "rews", "infos")
"""The oldest trajectories were named tuples, whose values are pickled without names."""


def _of_record(record: Record) -> dict[str, Any]:
    by_position = zip(_OLDEST, record.args, strict=True) if len(record.args) == len(_OLDEST) else ()
    return {**dict(by_position), **record.fields}


def plain_observation(value: Any) -> Any:
    """An observation as an array, or a dictionary of arrays."""
    if isinstance(value, Record):
        fields = _of_record(value)
        value = fields.get("_d", fields)  # `DictObs`
    if isinstance(value, DictObs):
        value = value.unwrap()
    if isinstance(value, Mapping):
        return {str(key): np.asarray(item) for key, item in value.items()}
    return np.asarray(value)


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a pickled trajectory or transitions object by name, or None if it is neither."""
    if isinstance(value, Record):
        value = _of_record(value)
    elif isinstance(value, (Trajectory, TransitionsMinimal)):
        value = dataclass_quick_asdict(value)
    if not isinstance(value, Mapping) or not {"obs", "acts"} <= value.keys():
        return None
    return {str(name): item for name, item in value.items()}


def episodes(value: Any) -> Sequence[dict[str, Any]] | None:
    """The fields of each pickled trajectory, or None if these are no trajectories."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.reshape(-1).tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    found = [fields_of(item) for item in value]
    return None if any(item is None for item in found) else [item for item in found if item is not None]
