"""Info dictionaries as JSON text, one line a step, decoded when read."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np

from understudy.data.dict_obs import DictObs
from understudy.errors import CorruptFileError, DataError

_PLAIN = (str, int, float, bool, type(None))
_PLAIN_TYPES, _STRING = frozenset(_PLAIN), frozenset((str,))
_encode = json.JSONEncoder(separators=(",", ":")).encode
_MOST_KNOWN = 4096
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _plain(value: Any, where: str) -> Any:
    """``value`` in JSON's own types; ``where`` names it in errors."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), where)
    if isinstance(value, DictObs):
        value = value.unwrap()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DataError(
                    expected="infos whose keys are strings, since they are saved as JSON",
                    got=f"the key {key!r} in {where}",
                    do=f"rename it to {str(key)!r}, or save without infos (infos=None)",
                )
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, _PLAIN):  # subclasses, such as an IntEnum
        return value
    raise DataError(
        expected="infos that JSON can hold: numbers, strings, booleans, None, lists, dictionaries, arrays of these",
        got=f"{type(value).__name__} at {where}",
        do="delete or convert this entry, or save without infos (infos=None)",
    )


def encode_info(info: Mapping[str, Any], where: str) -> bytes:
    """One info as UTF-8 JSON; arrays become lists.

    Raises:
        DataError: an entry has no JSON form; the message names it after ``where``.
    """
    if not info:
        return b"{}"
    return _encode(info if _is_plain(info) else _plain(info, where)).encode()


def _is_plain(info: Mapping[str, Any]) -> bool:
    return (
        type(info) is dict and _STRING.issuperset(map(type, info)) and _PLAIN_TYPES.issuperset(map(type, info.values()))
    )


def encode_infos(infos: Iterable[Mapping[str, Any]], where: str) -> list[bytes]:
    """As ``encode_info`` each; infos that say the same of step after step are encoded once."""
    lines: list[bytes] = []
    known: dict[Any, bytes] = {}
    for step, info in enumerate(infos):
        if not info:
            lines.append(b"{}")
            continue
        if not _is_plain(info):
            lines.append(encode_info(info, f"{where}, infos[{step}]"))
            continue
        values = tuple(info.values())
        types = tuple(map(type, values))  # 1 and True are equal
        if float in types:  # 0.0 and -0.0 are equal, and numbers seldom repeat
            lines.append(_encode(info).encode())
            continue
        same = (tuple(info), values, types)
        line = known.get(same)
        if line is None:
            line = _encode(info).encode()
            if len(known) < _MOST_KNOWN:
                known[same] = line
        lines.append(line)
    return lines


class JsonInfos(Sequence[Mapping[str, Any]]):
    """Infos of consecutive steps; each access decodes anew, so what is returned is the caller's own."""

    def __init__(
        self, text: np.ndarray, offsets: np.ndarray, source: str, decode: Callable[[bytes], Any] = json.loads
    ) -> None:
        """``offsets``: int64, shape (steps + 1,), where each step's JSON begins in the bytes ``text``."""
        self._text = text
        self._offsets = offsets
        self._source = source
        self._decoder = decode

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, key: SupportsIndex) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, key: SupportsIndex | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        steps = range(len(self))[key]
        if isinstance(steps, int):
            return self._decode(steps)
        if steps.step != 1:
            return [self._decode(i) for i in steps]
        offsets = self._offsets[steps.start : steps.start + len(steps) + 1]
        return JsonInfos(self._text, offsets, self._source, self._decoder)

    @property
    def is_plain(self) -> bool:
        """The text is the JSON that ``encode_info`` would write, not another library's."""
        return self._decoder is json.loads

    def are_empty(self) -> bool:
        """Whether there is nothing in any of them; nothing is decoded."""
        begins = self._offsets[:-1]
        if not np.all(np.diff(self._offsets) == len(b"{}")):
            return False
        return bool(np.all(self._text[begins] == ord("{")) and np.all(self._text[begins + 1] == ord("}")))

    def lines(self) -> list[bytes]:
        """The JSON of each step as it is stored."""
        return [bytes(self._text[a:b]) for a, b in zip(self._offsets[:-1], self._offsets[1:], strict=True)]

    def to_array(self) -> np.ndarray:
        """All of them decoded, objects, shape (steps,).

        Raises:
            CorruptFileError: one is no JSON object.
        """
        infos = np.empty(len(self), dtype=object)
        starts = self._offsets - self._offsets[0]
        text = bytes(self._text[self._offsets[0] : self._offsets[-1]])
        if not (self.is_plain and text.isascii()):
            infos[:] = [self._decode(step) for step in range(len(self))]
            return infos
        line = text.decode("ascii")  # one scan of all is twice as fast as a text a step
        for step, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            try:
                infos[step], end = _scan(line, start)
            except (ValueError, StopIteration, RecursionError):
                end = -1
            if end != stop or type(infos[step]) is not dict:
                infos[step] = self._decode(step)
        return infos

    def _decode(self, step: int) -> Mapping[str, Any]:
        line = bytes(self._text[self._offsets[step] : self._offsets[step + 1]])
        if line == b"{}":
            return {}
        try:
            info = self._decoder(line)
        except (ValueError, RecursionError) as err:
            raise CorruptFileError(
                expected="a JSON object for each step's info",
                got=f"{line[:40]!r} in {self._source}",
                do="restore the file from where it came from",
            ) from err
        if not isinstance(info, dict):
            raise CorruptFileError(
                expected="a JSON object for each step's info",
                got=f"a {type(info).__name__} in {self._source}",
                do="restore the file from where it came from",
            )
        return info

    def __repr__(self) -> str:
        return f"<infos of {len(self)} steps, as JSON in {self._source}>"


@dataclasses.dataclass(frozen=True)
class InfoColumn:
    """The infos of many trajectories; a trajectory may have none."""

    text: np.ndarray
    """UTF-8 JSON of all steps end to end, uint8, shape (bytes,)."""
    text_offsets: np.ndarray
    """Where each step's JSON begins, int64, shape (steps + 1,)."""
    row_offsets: np.ndarray
    """At which step each trajectory begins, int64, shape (trajectories + 1,)."""
    present: np.ndarray
    """False for a trajectory that has no infos, shape (trajectories,)."""
    source: str = "memory"
    decode: Callable[[bytes], Any] = json.loads
    """Reads one step's text."""

    @classmethod
    def encode(cls, infos: Iterable[Sequence[Mapping[str, Any]] | np.ndarray | None], *, first: int = 0) -> InfoColumn:
        """From each trajectory's infos; ``first`` is the number of the first one in error messages.

        Raises:
            DataError: an entry has no JSON form; the message names trajectory, step and key.
        """
        lines: list[bytes] = []
        ends, present = [0], []
        for number, steps in enumerate(infos, start=first):
            present.append(steps is not None)
            if isinstance(steps, JsonInfos) and steps.is_plain:
                lines += steps.lines()
            elif steps is not None:
                lines += encode_infos(steps, f"trajectory {number}")
            ends.append(len(lines))
        text_offsets = np.zeros(len(lines) + 1, dtype=np.int64)
        np.cumsum([len(line) for line in lines], out=text_offsets[1:])
        return cls(
            text=np.frombuffer(b"".join(lines), dtype=np.uint8),
            text_offsets=text_offsets,
            row_offsets=np.array(ends, dtype=np.int64),
            present=np.array(present, dtype=bool),
        )

    def __getitem__(self, row: int) -> JsonInfos | None:
        """Infos of one trajectory, or None where it has none."""
        if not self.present[row]:
            return None
        start, stop = self.row_offsets[row], self.row_offsets[row + 1]
        return JsonInfos(self.text, self.text_offsets[start : stop + 1], self.source, self.decode)

    def slice(self, start: int, stop: int) -> InfoColumn:
        """The trajectories ``start:stop``; the text is shared."""
        return dataclasses.replace(
            self, row_offsets=self.row_offsets[start : stop + 1], present=self.present[start:stop]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[InfoColumn]) -> InfoColumn:
        """All parts end to end; the text is copied."""
        texts, text_offsets, row_offsets = [], [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
        steps = size = 0
        for part in parts:
            first, last = part.row_offsets[0], part.row_offsets[-1]
            offsets = part.text_offsets[first : last + 1]
            texts.append(part.text[offsets[0] : offsets[-1]])
            text_offsets.append(offsets[1:] - offsets[0] + size)
            row_offsets.append(part.row_offsets[1:] - first + steps)
            steps += int(last - first)
            size += int(offsets[-1] - offsets[0])
        return cls(
            text=np.concatenate(texts),
            text_offsets=np.concatenate(text_offsets),
            row_offsets=np.concatenate(row_offsets),
            present=np.concatenate([part.present for part in parts]),
            source=parts[0].source,
            decode=parts[0].decode,
        )


@dataclasses.dataclass(frozen=True)
class HeldInfos:
    """The infos of many trajectories as Python objects: what a trusted pickle held."""

    rows: Sequence[Any]
    """Each trajectory's infos, or None."""

    def __getitem__(self, row: int) -> Any:
        """Infos of one trajectory, or None where it has none."""
        return self.rows[row]

    def slice(self, start: int, stop: int) -> HeldInfos:
        """The trajectories ``start:stop``."""
        return HeldInfos(self.rows[start:stop])


AnyInfoColumn = InfoColumn | HeldInfos


def concatenate_infos(parts: Sequence[AnyInfoColumn]) -> AnyInfoColumn:
    """The infos of parts of one dataset end to end."""
    held = [part for part in parts if isinstance(part, HeldInfos)]
    if held:
        assert len(held) == len(parts)
        return HeldInfos([row for part in held for row in part.rows])
    return InfoColumn.concatenate([part for part in parts if isinstance(part, InfoColumn)])
