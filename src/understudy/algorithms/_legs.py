"""A run cut into legs: lock, seeds, checkpoints at their ends, a snapshot when the user stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch

from understudy.algorithms.base import BaseImitationAlgorithm
from understudy.algorithms.checkpoints import Checkpoints
from understudy.errors import CheckpointError, ConfigError, TrainingInterrupted
from understudy.util.checkpoint import keep_newest, latest, read_checkpoint, set_aside_newer, step_folder, using
from understudy.util.files import remove_abandoned
from understudy.util.interrupts import StopSignals
from understudy.util.paths import parse_path
from understudy.util.run_lock import RunLock
from understudy.util.seeding import globals_put_back, leg_generator, make_seeds, seed_globals
from understudy.util.versions import library_versions

SNAPSHOT = "snapshot"

_log = logging.getLogger(__name__)


class LegRun:
    """One training of a trainer, in legs. Use as a context; then call ``begin``.

    Args:
        options: where and how often.
        trainer: saved and restored through its ``state``.
        identity: plain values that must be the same when the run is resumed.
        on_leg: seeds what only this training knows of (environments, logging), from the leg's generator.
        device: its generator is seeded too.
    """

    def __init__(
        self,
        options: Checkpoints,
        trainer: BaseImitationAlgorithm,
        identity: Mapping[str, Any],
        *,
        on_leg: Callable[[np.random.Generator], None],
        device: torch.device | str = "cpu",
    ) -> None:
        self.folder = parse_path(options.folder)
        self.every = options.every
        self.leg = 0
        self.seed = 0
        self._options = options
        self._trainer = trainer
        self._identity = {"every": options.every, **identity}
        self._on_leg = on_leg
        self._device = device
        self._signals = StopSignals()
        self._open = ExitStack()

    def __enter__(self) -> LegRun:
        """Make and lock the folder, and watch for signals.

        Raises:
            CheckpointError: the folder cannot be made or written to.
            RunLockedError: another process works in it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open.enter_context(RunLock(self.folder))
        except OSError as err:
            raise CheckpointError(
                expected=f"a folder for checkpoints at {self.folder}",
                got=f"{type(err).__name__}: {err}",
                do="choose a folder that can be written to",
            ) from err
        self._open.enter_context(globals_put_back(self._device))
        self._open.enter_context(self._signals)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release lock, signals and generators."""
        self._open.close()

    def begin(self) -> Any:
        """Restore the trainer from the newest checkpoint; or, in an empty folder, choose the run's seed.

        Returns:
            The training's own state as it was saved; None where a run begins, which then has to call `save_start`.

        Raises:
            ConfigError: checkpoints are there and ``resume`` is False, or the run began with other options.
            CheckpointError: none of the checkpoints verifies.
        """
        remove_abandoned(self.folder)
        newest = latest(self.folder)
        if newest is None:
            self.seed = make_seeds(self._trainer.rng)
            self._begin_leg()
            return None
        if not self._options.resume:
            raise ConfigError(
                expected=f"a folder without checkpoints at {self.folder}",
                got=newest.name,
                do="pass resume=True to go on with that run, or choose another folder",
            )
        checkpoint = read_checkpoint(newest, kind=type(self._trainer).__name__)
        set_aside_newer(newest)
        with using(newest):
            run = checkpoint.state["run"]
            if run is None:
                raise CheckpointError(
                    expected=f"a checkpoint of a training in {newest}",
                    got="a trainer saved outside of one",
                    do="load it with the trainer's `load`, and train in another folder",
                )
            self._compare(run["identity"], newest)
            self._compare_versions(checkpoint.facts)
            self._trainer.restore(checkpoint.state["trainer"], newest)
            self.seed, self.leg = run["seed"], run["leg"]
            if not run["finished"]:
                self._begin_leg()
            return run["training"]

    def save_start(self, training: Any) -> None:
        """The checkpoint before the first step: a folder that cannot be written to is told before hours of work."""
        self._save(step_folder(self.folder, 0), training)

    def _compare(self, began_with: Mapping[str, Any], where: Path) -> None:
        now = self._identity
        other = [name for name in {**began_with, **now} if began_with.get(name) != now.get(name)]
        if self._options.allow_other_threads and "threads" in other:
            other.remove("threads")
        if other:
            raise ConfigError(
                expected=f"what the run in {where.parent} began with: "
                + ", ".join(f"{name}={began_with.get(name)!r}" for name in other),
                got=", ".join(f"{name}={now.get(name)!r}" for name in other),
                do="pass allow_other_threads=True if the last bits may differ"
                if other == ["threads"]
                else "use the same again, or train in another folder",
            )

    def _compare_versions(self, facts: Mapping[str, Any]) -> None:
        then, now = facts.get("versions", {}), library_versions()
        changed = [f"{name} {then[name]} → {now.get(name)}" for name in then if then[name] != now.get(name)]
        if changed:
            _log.warning("resuming with other versions, the last bits may differ: %s", ", ".join(changed))

    def _begin_leg(self) -> None:
        self._trainer.rng = rng = leg_generator(self.seed, self.leg)
        seed_globals(rng, self._device)
        self._on_leg(rng)

    def next_leg(self, step: int, training: Any) -> None:
        """Save where the run stands, and seed the next leg."""
        self.leg += 1
        self._save(step_folder(self.folder, step), training)
        keep_newest(self.folder, self._options.keep)
        self._begin_leg()

    def finish(self, step: int, training: Any) -> None:
        """Save the end of the run.

        Raises:
            TrainingInterrupted: a signal came when there was nothing left to stop.
        """
        self.leg += 1
        target = step_folder(self.folder, step)
        self._save(target, training, finished=True)
        keep_newest(self.folder, self._options.keep)
        if self._signals.received is not None:
            raise TrainingInterrupted(self._signals.received, str(target))

    @property
    def stop_asked(self) -> bool:
        """Whether a signal came."""
        return self._signals.received is not None

    def stop(self, training: Any) -> NoReturn:
        """Save a snapshot and raise TrainingInterrupted."""
        assert self._signals.received is not None
        snapshot = self.folder / SNAPSHOT
        self._save(snapshot, training)
        raise TrainingInterrupted(self._signals.received, str(snapshot))

    def _save(self, target: Path, training: Any, *, finished: bool = False) -> None:
        run = {
            "seed": self.seed,
            "leg": self.leg,
            "identity": self._identity,
            "training": training,
            "finished": finished,
        }
        self._trainer.write(target, run=run)
