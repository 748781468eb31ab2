"""DAgger's demonstrations: a folder a round, a file a demonstration, and all of them as one growing data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data import serialize
from understudy.data.demonstrations import Demonstrations
from understudy.data.dict_obs import DictObs, Observation
from understudy.data.types import Trajectory
from understudy.errors import DataError

PLAIN = frozenset((str, int, float, bool, type(None)))
"""Types of the values of infos that are kept in files."""

ACTOR, POLICY_ACTION, EXPERT_ACTION = "actor", "policy_action", "expert_action"
"""Keys of a step's info: who acted (``"expert"`` or ``"policy"``), and what each of the two would have done.

The expert's action is None where nobody asked it: that step is in the file, and not in the data learned from.
"""


def demo_files(folder: Path) -> list[Path]:
    """The demonstrations in a round's folder, those it began with first, in the order they were written."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix == ".npz" and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def demo_name(folder: Path, number: int) -> Path:
    """``round-002/demos_round_002_017.npz`` for number 17."""
    return folder / f"demos_{folder.name.replace('-', '_')}_{number:03d}.npz"


class _Column:
    """Rows in one array that doubles when it is full."""

    def __init__(self) -> None:
        self._data: np.ndarray | None = None
        self._len = 0

    def extend(self, rows: np.ndarray, what: str, source: str) -> None:
        """Copy rows to the end.

        Raises:
            DataError: another type or shape than those before.
        """
        if self._data is None:
            self._data = np.empty((0, *rows.shape[1:]), rows.dtype)
        if rows.dtype != self._data.dtype or rows.shape[1:] != self._data.shape[1:]:
            raise DataError(
                expected=f"`{what}` of {self._data.dtype} and shape {self._data.shape[1:]}, as in the others",
                got=f"{rows.dtype} and shape {rows.shape[1:]} in {source}",
                do="record all demonstrations of one scratch folder in the same environment, or move this one away",
            )
        stop = self._len + len(rows)
        if stop > len(self._data):
            grown = np.empty((max(stop, 2 * len(self._data)), *rows.shape[1:]), rows.dtype)
            grown[: self._len] = self._data[: self._len]
            self._data = grown
        self._data[self._len : stop] = rows
        self._len = stop

    def rows(self) -> np.ndarray:
        """What was copied in, not copied again."""
        assert self._data is not None
        return self._data[: self._len]


class DemoStore:
    """All demonstrations of all rounds so far, append-only: a file is read once, and never if it was written here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_episodes = 0
        """Demonstrations taken in."""
        self.n_steps = 0
        """Steps in them, those nobody labelled counted."""
        self.n_closed = 0
        """Rounds that were learned from; what is put into their folders afterwards is not looked at."""
        self.files_read = 0
        """How many of them came from the disk."""
        self._taken: set[Path] = set()
        self._fresh: dict[Path, Trajectory] = {}
        self._frames: dict[str, _Column] = {}
        self._acts = _Column()
        self._rows = _Column()
        self._n_frames = 0
        self._ends: list[int] = [0]
        self._lengths: list[int] = []

    def folder_of(self, round_num: int) -> Path:
        """Where a round's demonstrations lie."""
        return self.folder / f"round-{round_num:03d}"

    def wrote(self, path: Path, trajectory: Trajectory) -> None:
        """A demonstration was written here just now: it need not be read back."""
        self._fresh[path] = trajectory

    def forget_fresh(self) -> None:
        """What was written but not taken in is read from its files, if they are still there."""
        self._fresh.clear()

    def take_round(self, round_num: int) -> int:
        """Take in what is new in a round's folder; the number of demonstrations there, old and new.

        Raises:
            DataError: a file of another environment, or none of ours.
            CorruptFileError: a damaged file.
        """
        files = demo_files(self.folder_of(round_num))
        for path in files:
            if path in self._taken:
                continue
            fresh = self._fresh.pop(path, None)
            for trajectory in [fresh] if fresh is not None else self._read(path):
                self._take(trajectory, str(path))
            self._taken.add(path)
        return len(files)

    def _read(self, path: Path) -> Iterable[Trajectory]:
        self.files_read += 1
        return serialize.load(path)

    def _take(self, trajectory: Trajectory, source: str) -> None:
        obs = trajectory.obs
        parts: Mapping[str, np.ndarray] = obs.unwrap() if isinstance(obs, DictObs) else {"": obs}
        if self._frames and parts.keys() != self._frames.keys():
            raise DataError(
                expected=f"observations with the entries {sorted(self._frames)}",
                got=f"{sorted(parts)} in {source}",
                do="record all demonstrations of one scratch folder in the same environment",
            )
        chosen = _labelled(trajectory)
        for name, array in parts.items():
            self._frames.setdefault(name, _Column()).extend(array, f"obs[{name!r}]" if name else "obs", source)
        rows = np.arange(self._n_frames, self._n_frames + len(trajectory), dtype=np.int64)
        self._acts.extend(trajectory.acts if chosen is None else trajectory.acts[chosen], "acts", source)
        self._rows.extend(rows if chosen is None else rows[chosen], "rows", source)
        self._n_frames += len(trajectory) + 1
        self._lengths.append(len(trajectory))
        self.n_steps += len(trajectory)
        self.n_episodes += 1
        learnable = len(self._rows.rows())
        if learnable > self._ends[-1]:
            self._ends.append(learnable)

    def __len__(self) -> int:
        """Steps to learn from."""
        return self._ends[-1]

    def demonstrations(self, *, whole: bool = False) -> Demonstrations:
        """Everything taken in that an expert labelled; the arrays are views, valid until the next round is taken in.

        Args:
            whole: with the steps that nobody labelled, at a weight of zero, where there are any.
        """
        parts = {name: column.rows() for name, column in self._frames.items()}
        frames: Observation = parts[""] if parts.keys() == {""} else DictObs(parts)
        rows, acts = self._rows.rows(), self._acts.rows()
        if not whole or len(rows) == self.n_steps:
            return Demonstrations(
                frames=frames, obs_rows=rows, acts=acts, episode_offsets=np.array(self._ends, dtype=np.int64)
            )
        lengths = np.array(self._lengths, dtype=np.int64)
        every = np.arange(self.n_steps) + np.repeat(np.arange(len(lengths)), lengths)  # one more frame an episode
        labelled = np.isin(every, rows, assume_unique=True)
        filled = np.repeat(acts[:1], self.n_steps, axis=0)  # any action will do where it has no weight
        filled[labelled] = acts
        return Demonstrations(
            frames=frames,
            obs_rows=every,
            acts=filled,
            episode_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            weights=labelled.astype(np.float32),
        )


def _labelled(trajectory: Trajectory) -> np.ndarray | None:
    """Which steps the expert labelled, shape (time,); None for all."""
    if trajectory.infos is None:
        return None
    chosen = np.array([ACTOR not in info or info[EXPERT_ACTION] is not None for info in trajectory.infos], dtype=bool)
    return None if chosen.all() else chosen


def write_demo(path: Path, trajectory: Trajectory, wrote: Callable[[Path, Trajectory], None] | None = None) -> None:
    """Write one demonstration atomically, without pickles.

    Raises:
        FileWriteError: it cannot be written.
    """
    serialize.save(path, [trajectory])
    if wrote is not None:
        wrote(path, trajectory)


def with_plain_infos(trajectory: Trajectory) -> Trajectory:
    """The trajectory with what a file can hold of its infos: plain values, and our own record."""
    if trajectory.infos is None:
        return trajectory
    infos = [
        {key: value for key, value in info.items() if type(value) in PLAIN or key in (POLICY_ACTION, EXPERT_ACTION)}
        for info in trajectory.infos
    ]
    return dataclasses.replace(trajectory, infos=np.array(infos, dtype=object))


def record(actor: str, policy_action: Any, expert_action: Any) -> dict[str, Any]:
    """The info of one step: plain values or lists."""
    return {ACTOR: actor, POLICY_ACTION: policy_action, EXPERT_ACTION: expert_action}
