"""The expert dataset of Stable-Baselines 2."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from understudy.data import _stable_baselines_archive as archive
from understudy.data._dataset import Demonstrations
from understudy.data._stable_baselines_archive import ExpertColumns
from understudy.data._stable_baselines_loader import DataLoader
from understudy.data.types import AnyPath
from understudy.errors import ConfigError, EmptyDataError, MissingExtraError

_log = logging.getLogger(__name__)


class ExpertDataset:
    """Observations and actions of an expert, split into a training and a validation part.

    Attributes:
        observations: shape (row, *obs); of images in files, their absolute paths, shape (row,).
        actions: shape (row, *act); (row, 1) for discrete ones.
        returns: of each episode, float64; ``avg_ret`` and ``std_ret`` are their mean and standard deviation.
        num_traj: episodes in use.
        num_transition: rows in use; also ``obs_len``.
        train_indices: rows of the training part; ``val_indices`` those of the validation part, which may be none.
        train_loader: batches of the training part.
        val_loader: batches of the validation part, or None where ``train_fraction`` is 1.
        dataloader: batches of all rows, after ``init_dataloader``; else None.
    """

    def __init__(
        self,
        expert_path: AnyPath | None = None,
        traj_data: Mapping[str, Any] | None = None,
        train_fraction: float = 0.7,
        batch_size: int = 64,
        traj_limitation: int = -1,
        randomize: bool = True,
        verbose: int = 1,
        sequential_preprocessing: bool = False,
        *,
        split: Literal["transition", "episode"] = "transition",
        rng: np.random.Generator | None = None,
        legacy: bool = False,
        trust: Literal["pickle"] | None = None,
    ) -> None:
        """Read and check all but the images themselves.

        Args:
            expert_path: the archive; or pass ``traj_data``.
            traj_data: the arrays of an archive by name, such as ``generate_expert_traj`` returns.
            train_fraction: part of the rows (or episodes, see ``split``) to train on, in (0, 1]; 1 leaves none to
                validate on.
            batch_size: of ``train_loader`` and ``val_loader``.
            traj_limitation: how many episodes to use, from the first; -1 for all.
            randomize: whether the split is random and each pass in a new order; else everything is in recorded order.
            verbose: 1 logs a summary.
            sequential_preprocessing: accepted; has no effect, no process is ever started.
            split: ``"transition"`` as in Stable-Baselines, where neighbouring steps of one episode come to stand on
                both sides, so that validation flatters; ``"episode"`` keeps an episode's steps together.
            rng: decides split and order; ``None`` draws a seed from the system.
            legacy: count as Stable-Baselines 2 did: ``traj_limitation=k`` keeps episode k + 1 save its last two steps,
                statistics are over the returns of more episodes than are used, ``num_traj`` is -1 without a limit,
                rows of several axes (images in the archive) are flattened, and the split is random in any case.
            trust: ``"pickle"`` runs what pickled members of the archive hold: for files whose writer you trust.

        Raises:
            ConfigError: both sources or neither, or an argument out of its range.
            UntrustedFileError: the archive has a pickled member, and ``trust`` is None.
            CorruptFileError, MissingFileError, EmptyDataError, DataError: the data cannot be used.
            NonFiniteDataError: NaN or infinity in it, naming where.
        """
        columns = _columns(expert_path, traj_data, trust)
        if not 0.0 < train_fraction <= 1.0:
            raise ConfigError(
                expected="`train_fraction` in (0, 1]", got=str(train_fraction), do="pass for instance 0.7"
            )
        if split not in ("transition", "episode"):
            raise ConfigError(expected="split='transition' or 'episode'", got=repr(split), do="pass one of these")
        recorded = len(columns.offsets) - 1
        self._columns = columns = _limited(columns, traj_limitation, legacy)
        self.observations, self.actions = columns.obs, columns.acts
        if legacy:
            self.observations, self.actions = (
                array.reshape(len(array), -1) if array.ndim > 2 else array for array in (columns.obs, columns.acts)
            )
        self.returns = columns.returns
        self.avg_ret = float(np.mean(self.returns))
        self.std_ret = float(np.std(self.returns))
        self.num_traj = min(traj_limitation, recorded) if legacy else len(columns.offsets) - 1
        self.num_transition = self.obs_len = len(self.actions)
        self.randomize = randomize
        self.verbose = verbose
        self.sequential_preprocessing = sequential_preprocessing
        self._batch_size = batch_size
        self._rng = np.random.default_rng() if rng is None else rng
        self.train_indices, self.val_indices = self._split(train_fraction, split, shuffled=randomize or legacy)
        self.train_loader = self._loader(self.train_indices, batch_size)
        self.val_loader = self._loader(self.val_indices, batch_size) if len(self.val_indices) else None
        self.dataloader: DataLoader | None = None
        if verbose >= 1:
            self.log_info()

    def _split(self, fraction: float, split: str, *, shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
        offsets = self._columns.offsets
        n = self.num_transition if split == "transition" else len(offsets) - 1
        order = self._rng.permutation(n) if shuffled else np.arange(n)
        n_train = int(fraction * n + 1e-9)  # 0.29 of 100 is 29
        if n_train == 0:
            raise ConfigError(
                expected=f"at least one {split} to train on, of {n}",
                got=f"train_fraction={fraction}",
                do="record more, raise train_fraction, or split by transition",
            )
        if split == "transition":
            return order[:n_train], order[n_train:]
        rows = [np.arange(offsets[e], offsets[e + 1]) for e in order]
        none = np.empty(0, dtype=np.int64)
        return np.concatenate(rows[:n_train]), np.concatenate([none, *rows[n_train:]])

    def _loader(self, indices: np.ndarray, batch_size: int) -> DataLoader:
        # Each has a generator of its own, so that what one gives does not hang on how often another was asked.
        rng = np.random.default_rng(int(self._rng.integers(2**63 - 1)))
        return DataLoader(
            indices,
            self.observations,
            self.actions,
            batch_size,
            shuffle=self.randomize,
            start_process=False,
            sequential=self.sequential_preprocessing,
            rng=rng,
        )

    def init_dataloader(self, batch_size: int) -> None:
        """Make ``dataloader``, which gives batches of all rows, for algorithms that validate nothing."""
        self.dataloader = self._loader(np.arange(self.num_transition), batch_size)

    def get_next_batch(self, split: Literal["train", "val"] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The next batch, without end: after one pass begins another.

        Args:
            split: ``"train"`` or ``"val"``; ``None`` for all rows, in batches of what ``init_dataloader`` was given,
                or of the constructor's ``batch_size`` where it was not called.

        Returns:
            Observations, shape (batch, *obs), images read, and actions, shape (batch, *act).

        Raises:
            ConfigError: another ``split``, or ``"val"`` where there is nothing to validate on.
        """
        if split is None and self.dataloader is None:
            self.init_dataloader(self._batch_size)
        loaders = {None: self.dataloader, "train": self.train_loader, "val": self.val_loader}
        loader = loaders.get(split)
        if loader is None:
            known = split in loaders
            raise ConfigError(
                expected="a validation part" if known else "split=None, 'train' or 'val'",
                got="train_fraction=1, which leaves none" if known else repr(split),
                do="pass train_fraction < 1" if known else "pass one of these",
            )
        try:
            return next(loader)
        except StopIteration:
            return next(iter(loader))

    def prepare_pickling(self) -> None:
        """Does nothing: there are no processes to end, and a dataset can be pickled at any time, loaders and all."""

    def log_info(self) -> None:
        """Log how many episodes and steps there are, and the mean and spread of their returns."""
        _log.info(
            "expert dataset: %d trajectories, %d transitions, returns %.6g ± %.6g",
            len(self._columns.offsets) - 1,
            self.num_transition,
            self.avg_ret,
            self.std_ret,
        )

    def plot(self) -> Any:
        """Show a histogram of the episodes' returns, where there is a display.

        Returns:
            The matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as err:
            raise MissingExtraError("matplotlib", "plots") from err
        figure, axes = plt.subplots()
        axes.hist(self.returns)
        axes.set_xlabel("return")
        axes.set_ylabel("episodes")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*non-interactive.*")
            plt.show()
        return figure

    def to_demonstrations(self) -> Demonstrations:
        """All rows in use, of both parts, in the form that every algorithm takes; images are read into memory.

        Last observations and time limits are there where the archive has them.
        """
        return self._columns.to_demonstrations()

    def __len__(self) -> int:
        """Rows in use."""
        return self.num_transition

    def __repr__(self) -> str:
        episodes = len(self._columns.offsets) - 1
        return f"<ExpertDataset of {episodes} trajectories, {self.num_transition} transitions>"


def _columns(path: AnyPath | None, data: Mapping[str, Any] | None, trust: str | None) -> ExpertColumns:
    if (path is None) == (data is None):
        raise ConfigError(
            expected="one of `expert_path` and `traj_data`",
            got="neither" if path is None else "both",
            do="pass the path of an archive, or arrays by name",
        )
    if data is not None:
        return archive.from_arrays(data, "traj_data")
    assert path is not None
    return archive.read(Path(os.fsdecode(path)).expanduser(), trust)


def _limited(columns: ExpertColumns, k: int, legacy: bool) -> ExpertColumns:
    n = len(columns.offsets) - 1
    if k < -1 or (k == 0 and not legacy):
        raise ConfigError(expected="`traj_limitation` ≥ 1, or -1 for all", got=str(k), do="pass for instance 1")
    if k == -1 or k >= n:
        return columns
    if not legacy:
        return columns.first_episodes(k)
    rows = int(columns.offsets[k + 1]) - 2
    if rows <= 0:
        raise EmptyDataError(
            expected="steps within the limit",
            got=f"none with traj_limitation={k} and legacy=True",
            do="leave legacy=True out",
        )
    return columns.first_rows(rows)
