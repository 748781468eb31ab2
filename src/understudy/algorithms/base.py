"""What every algorithm shares: a logger, state on disk, demonstrations through one door, the fixed-horizon check."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from torch.utils.data import DataLoader

from understudy.data.demonstrations import AnyDemonstrations, as_demonstrations
from understudy.data.demonstrations import BatchStream as _BatchStream
from understudy.data.types import TransitionMapping, TransitionsMinimal, transitions_collate_fn
from understudy.errors import ConfigError, DataError
from understudy.util import logger as logging_door
from understudy.util.checkpoint import Writer, write_checkpoint
from understudy.util.logger import HierarchicalLogger
from understudy.util.paths import AnyPath
from understudy.util.state_tree import Tree

AnyTransitions = AnyDemonstrations
"""Anything ``understudy.data.demonstrations.as_demonstrations`` takes."""

TransitionKind = TypeVar("TransitionKind", bound="TransitionsMinimal[Any]")


class BaseImitationAlgorithm(abc.ABC):
    """Base of all algorithms.

    Args:
        custom_logger: where to log; None makes a logger that writes to the terminal and a temporary folder.
        allow_variable_horizon: accept episodes of different lengths. When an episode ends on success or failure, its
            length alone tells the reward, so a comparison of algorithms on such data says little.
    """

    def __init__(
        self, *, custom_logger: HierarchicalLogger | None = None, allow_variable_horizon: bool = False
    ) -> None:
        self._logger = custom_logger
        self.allow_variable_horizon = allow_variable_horizon
        self._horizon: int | None = None
        if allow_variable_horizon:
            warnings.warn(
                "Episodes of different lengths are accepted: their length may tell the learner the reward. "
                "Compare only with results obtained in the same way.",
                stacklevel=3,
            )

    rng: np.random.Generator
    """Decides everything random; a training in legs puts a new one here at the beginning of each."""

    def state(self) -> dict[str, Any]:
        """Everything that learning changes: nested dictionaries and lists of plain values, arrays and tensors.

        Equal states go on to equal results. Tensors are the trainer's own, not copies.

        Raises:
            NotImplementedError: a class that does not say what its state is.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be saved: give it `state` and `restore`")

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Become what was saved in ``folder``.

        Args:
            state: as `state` gave it, without what ``_parts_in_files`` names.
            folder: the checkpoint, which has been verified.

        Raises:
            CorruptFileError: the state is not one of this class.
            CheckpointError: it belongs to other networks than this trainer's.
            NotImplementedError: as `state`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be restored: give it `state` and `restore`")

    def _parts_in_files(self) -> Mapping[str, Writer]:
        """Entries of `state` that have files of their own, ``<name>.safetensors``, and what writes them."""
        return {}

    def save(self, path: AnyPath) -> None:
        """Write the whole trainer to a folder: networks, optimisers, normalisers, counters, random generators.

        The folder is complete and checked by its sums, or is not there; ``load`` reads it without running anything
        from it. To save while training goes on, pass ``checkpoints=`` to ``train``.

        Raises:
            CheckpointError: it cannot be written, or something else has this name; what stood there is untouched.
        """
        self.write(path)

    def write(self, path: AnyPath, run: Tree = None) -> None:
        """As `save`, with the state of a training under way beside the trainer's."""
        state, files = dict(self.state()), self._parts_in_files()
        for name in files:
            state.pop(name)
        named = {f"{name}.safetensors": write for name, write in files.items()}
        write_checkpoint(path, {"trainer": state, "run": run}, kind=type(self).__name__, files=named)

    @property
    def logger(self) -> HierarchicalLogger:
        """Where this algorithm logs; made on first use if none was given."""
        if self._logger is None:
            self._logger = logging_door.configure()
        return self._logger

    @logger.setter
    def logger(self, value: HierarchicalLogger) -> None:
        self._logger = value

    def _check_fixed_horizon(self, lengths: Iterable[int], source: str) -> None:
        """Compare episode lengths with each other and with all seen before.

        Raises:
            DataError: lengths differ and ``allow_variable_horizon`` is False.
        """
        if self.allow_variable_horizon:
            return
        seen = {int(n) for n in lengths} | ({self._horizon} if self._horizon is not None else set())
        if len(seen) > 1:
            raise DataError(
                expected="episodes of one length",
                got=f"lengths {sorted(seen)[:6]}{'…' if len(seen) > 6 else ''} in {source}",
                do="use a fixed-horizon environment (the seals package has several), or pass "
                "allow_variable_horizon=True if you know that lengths carry no reward",
            )
        if seen:
            self._horizon = seen.pop()


class DemonstrationAlgorithm(BaseImitationAlgorithm, Generic[TransitionKind]):
    """An algorithm that learns from demonstrations.

    Args:
        demonstrations: anything the data door takes; None to give them later.
        custom_logger: see ``BaseImitationAlgorithm``.
        allow_variable_horizon: see ``BaseImitationAlgorithm``.
    """

    def __init__(
        self,
        *,
        demonstrations: AnyTransitions | None,
        custom_logger: HierarchicalLogger | None = None,
        allow_variable_horizon: bool = False,
    ) -> None:
        super().__init__(custom_logger=custom_logger, allow_variable_horizon=allow_variable_horizon)
        if demonstrations is not None:
            self.set_demonstrations(demonstrations)

    @abc.abstractmethod
    def set_demonstrations(self, demonstrations: AnyTransitions) -> None:
        """Replace the demonstrations, for instance between rounds of an interactive algorithm."""

    @property
    @abc.abstractmethod
    def policy(self) -> BasePolicy:
        """The policy that imitates the demonstrations."""


def make_data_loader(
    transitions: AnyTransitions, batch_size: int, data_loader_kwargs: Mapping[str, Any] | None = None
) -> Iterable[TransitionMapping]:
    """A re-iterable loader of batches, for training loops of your own; the algorithms here use index selection.

    Every transition comes once a pass, the last batch being smaller where the batch size does not divide their
    number.

    Args:
        transitions: anything the data door takes. A loader of batches is handed through, checked as it goes.
        batch_size: rows in a batch.
        data_loader_kwargs: passed on to ``torch.utils.data.DataLoader``; ``shuffle`` is True unless given.

    Raises:
        ConfigError: ``batch_size`` < 1.
        DataError: see ``as_demonstrations``.
    """
    if batch_size < 1:
        raise ConfigError(expected="`batch_size` ≥ 1", got=str(batch_size), do="pass a positive batch size")
    demonstrations = as_demonstrations(transitions)
    if isinstance(demonstrations, _BatchStream):
        return demonstrations  # type: ignore[return-value]
    if demonstrations.next_obs is not None:
        rows: TransitionsMinimal[Any] = demonstrations.to_transitions()
    else:
        rows = TransitionsMinimal(obs=demonstrations.obs, acts=demonstrations.acts, infos=demonstrations.infos)
    options: dict[str, Any] = {"shuffle": True, "collate_fn": transitions_collate_fn, **(data_loader_kwargs or {})}
    return DataLoader(rows, batch_size=batch_size, **options)
