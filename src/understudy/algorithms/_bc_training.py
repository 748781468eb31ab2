"""One call of behavioural cloning's ``train``: source, hooks and loop, in one piece or in legs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._bc_checks import check_batch_norm
from understudy.algorithms._bc_parts import BCLogger, BCTrainingMetrics, RolloutStatsComputer, training_metrics
from understudy.algorithms._cloning_steps import CloningStep
from understudy.algorithms._early_stopping import EarlyStopping, episodes_of, split_episodes
from understudy.algorithms._legs import LegRun
from understudy.algorithms._supervised import FitResult, Hooks, Position, Progress, Schedule, fit
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.batches import Batch, BatchSource, ResidentBatches, StreamBatches, shuffled_in_windows
from understudy.data.chunks import ActionChunks
from understudy.data.demonstrations import BatchStream, Demonstrations, RowRanges
from understudy.data.fingerprint import fingerprint
from understudy.data.sequences import DEFAULT_SEQUENCE_LENGTH, SequenceBatches
from understudy.errors import ConfigError
from understudy.policies.chunks import foresees
from understudy.policies.recurrent import is_recurrent
from understudy.util.checkpoint import using
from understudy.util.devices import one_thread_if_small
from understudy.util.seeding import make_seeds, order_generator, start_generator, torch_generator, torch_seeded

if TYPE_CHECKING:
    from understudy.algorithms.bc import BC


@dataclasses.dataclass(frozen=True)
class BCResult:
    """What one call of ``train`` did."""

    fit: FitResult
    """Epochs, batches and samples."""

    validation_neglogp: tuple[float, ...] = ()
    """Mean negative log-likelihood on held-out episodes after each epoch, in nats."""

    best_epoch: int | None = None
    """The epoch whose parameters were kept, counted from 0; None without validation."""

    held_out_episodes: tuple[int, ...] = ()
    """Which episodes of the demonstrations were held out, rising."""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the caller of ``train`` asked for; see there."""

    n_epochs: int | None
    n_batches: int | None
    on_epoch_end: Callable[[], None] | None
    on_batch_end: Callable[[], None] | None
    log_interval: int
    log_rollouts_venv: VecEnv | None
    log_rollouts_n_episodes: int
    progress_bar: bool
    validation_fraction: float
    patience: int | None
    save_best: bool
    checkpoints: Checkpoints | None


class BCTraining:
    """A training about to run.

    Args:
        bc: whose policy learns.
        demos: what it learns from.
        step: how.
        schedule: learning rate from the progress remaining.
        logger: where it logs.
        wishes: what the caller asked for.
    """

    def __init__(
        self,
        bc: BC,
        demos: Demonstrations | BatchStream | None,
        step: CloningStep,
        schedule: Schedule | None,
        logger: BCLogger,
        wishes: Wishes,
    ) -> None:
        self._bc = bc
        self._demos = demos
        self._step = step
        self._schedule = schedule
        self._logger = logger
        self._wishes = wishes
        self._device = bc.policy.device
        self._rollout_stats = RolloutStatsComputer(wishes.log_rollouts_venv, wishes.log_rollouts_n_episodes)
        self._rollout_rng = bc.rng
        self._stopping: EarlyStopping | None = None

    def run(self) -> BCResult:
        """Train until the budget is used up or validation stops it."""
        rows = self._bc.minibatch_size or self._bc.batch_size
        work = rows * sum(p.numel() for p in self._bc.policy.parameters())
        with one_thread_if_small(work):
            if self._wishes.checkpoints is None:
                return self._in_one_piece()
            return self._in_legs(self._wishes.checkpoints)

    def _in_one_piece(self) -> BCResult:
        rng = self._bc.rng
        # Spawned, so that what is logged never changes what is learned.
        self._rollout_rng = np.random.default_rng(make_seeds(rng))
        source = self._source(rng, lambda: torch_generator(rng))
        with torch_seeded(rng, self._device):
            return self._fit(source)

    def _in_legs(self, checkpoints: Checkpoints) -> BCResult:
        order = torch.Generator()
        with LegRun(checkpoints, self._bc, self._identity(), on_leg=self._on_leg, device=self._device) as run:
            saved = run.begin()
            if saved is not None:
                with using(run.folder):
                    done = None if saved["result"] is None else _result(saved["result"])
                if done is not None:
                    return done
            source = self._source(start_generator(run.seed), lambda: order)
            start = Progress()
            if saved is None:
                run.save_start(self._state(start))
            else:
                with using(run.folder):
                    start = Progress(**saved["progress"])
                    if self._stopping is not None:
                        self._stopping.restore(saved["stopping"])
            result = self._fit(source, start, _BCLegs(run, order, self._state))
            end = Progress(result.fit.n_epochs, result.fit.n_batches, result.fit.n_samples)
            run.finish(end.batch, self._state(end, result))
        return result

    def _identity(self) -> dict[str, Any]:
        """What a run in legs is; a resumed one must be the same."""
        bc, wishes = self._bc, self._wishes
        calculator = bc.loss_calculator
        demos = self._demos
        return {
            "demonstrations": fingerprint(demos) if isinstance(demos, Demonstrations) else type(demos).__name__,
            "n_epochs": None if wishes.n_epochs is None else int(wishes.n_epochs),
            "n_batches": None if wishes.n_batches is None else int(wishes.n_batches),
            "validation_fraction": float(wishes.validation_fraction),
            "patience": wishes.patience,
            "save_best": wishes.save_best,
            "batch_size": bc.batch_size,
            "minibatch_size": bc.minibatch_size,
            "ent_weight": float(calculator.ent_weight),
            "l2_weight": float(calculator.l2_weight),
            "max_grad_norm": self._step.settings.max_grad_norm,
            "lr_schedule": self._schedule is not None,
            "optimizer": type(bc.optimizer).__name__,
            **{f"optimizer {name}": _shown(value) for name, value in bc.optimizer.defaults.items()},
            "policy": hashlib.sha256(str(bc.policy).encode()).hexdigest()[:16],
            "shuffle": "windows" if isinstance(demos, Demonstrations) and shuffled_in_windows(demos) else "uniform",
            "path": bc.path,
            "device": self._device.type,
            "threads": torch.get_num_threads(),
            **self._memory_identity(),
        }

    def _memory_identity(self) -> dict[str, Any]:
        if not is_recurrent(self._bc.policy):
            return {}
        return {"sequence_length": self._sequence_length, "burn_in": self._bc.burn_in}

    @property
    def _sequence_length(self) -> int:
        return DEFAULT_SEQUENCE_LENGTH if self._bc.sequence_length is None else self._bc.sequence_length

    def _on_leg(self, rng: np.random.Generator) -> None:
        # Spawned, so that what is logged never changes what is learned.
        self._rollout_rng = np.random.default_rng(make_seeds(rng))
        if self._wishes.log_rollouts_venv is not None:
            self._wishes.log_rollouts_venv.seed(make_seeds(rng))

    def _state(self, progress: Progress, result: BCResult | None = None) -> dict[str, Any]:
        return {
            "progress": dataclasses.asdict(progress),
            "stopping": None if self._stopping is None else self._stopping.state(),
            "result": None if result is None else _saved(result),
        }

    def _fit(self, source: BatchSource, start: Progress | None = None, legs: _BCLegs | None = None) -> BCResult:
        wishes, stopping = self._wishes, self._stopping
        hooks = Hooks(
            wishes.log_interval, self._before_logged_batch, self._log, wishes.on_batch_end, self._at_epoch_end
        )
        with self._step.running():
            result = fit(
                self._step,
                source,
                n_epochs=wishes.n_epochs,
                n_batches=wishes.n_batches,
                hooks=hooks,
                schedule=self._schedule,
                progress_bar=wishes.progress_bar,
                description="cloning",
                start=start,
                legs=legs,
            )
            if stopping is None:
                return BCResult(result)
            stopping.finish(self._step)
        return BCResult(result, tuple(stopping.losses), stopping.best_epoch, stopping.episodes)

    def _before_logged_batch(self, position: Position, batch: Batch) -> BCTrainingMetrics:
        calculator = self._bc.loss_calculator
        return training_metrics(
            self._step.terms(batch), self._bc.policy, calculator.ent_weight, calculator.l2_weight, batch.weights
        )

    def _log(self, position: Position, batch: Batch, metrics: BCTrainingMetrics) -> None:
        self._logger.log_epoch(position.epoch)
        stats = self._rollout_stats(self._bc.policy, self._rollout_rng)
        self._logger.log_batch(position.batch, len(batch), position.samples, metrics, stats)

    def _at_epoch_end(self, epoch: int) -> bool:
        stop = False
        if self._stopping is not None:
            self._logger.log_values({"validation_neglogp": self._stopping.measure(epoch, self._step)})
            stop = self._stopping.should_stop
        if self._wishes.on_epoch_end is not None:
            self._wishes.on_epoch_end()
        return stop

    def _source(self, rng: np.random.Generator, order: Callable[[], torch.Generator]) -> BatchSource:
        """The batches; with validation, ``self._stopping`` holds the rest of the data afterwards."""
        demos, policy = self._demos, self._bc.policy
        if demos is None:
            raise ConfigError(
                expected="demonstrations to learn from",
                got="none so far",
                do="pass demonstrations=… to BC, or call set_demonstrations before train",
            )
        fraction, patience = self._wishes.validation_fraction, self._wishes.patience
        images = any(isinstance(m, torch.nn.Conv2d) for m in policy.modules())
        if isinstance(demos, BatchStream):
            if fraction:
                raise ConfigError(
                    expected="demonstrations in hand for a validation split",
                    got="a DataLoader",
                    do="pass trajectories or arrays, or hold episodes out before building the loader",
                )
            return StreamBatches(demos, device=self._device, channels_last=images)
        rows, held_out = split_episodes(demos, fraction, rng)
        source = self._batches(demos, rows, order(), self._bc.batch_size, images)
        if isinstance(source, ResidentBatches):
            check_batch_norm(policy, source.n_rows, self._bc.minibatch_size or self._bc.batch_size)
        if held_out is None:
            if patience is not None:
                raise ConfigError(
                    expected="`validation_fraction` > 0 with `patience`",
                    got="patience without held-out episodes",
                    do="pass validation_fraction=0.1",
                )
            return source
        validation = self._batches(demos, held_out, None, 1024, images)
        self._stopping = EarlyStopping(validation, patience, self._wishes.save_best, episodes_of(demos, held_out))
        return source

    def _batches(
        self, demos: Demonstrations, rows: RowRanges | None, order: torch.Generator | None, size: int, images: bool
    ) -> ResidentBatches | SequenceBatches:
        policy = self._bc.policy
        if is_recurrent(policy):
            return SequenceBatches(
                demos,
                size,
                sequence_length=self._sequence_length,
                burn_in=self._bc.burn_in,
                device=self._device,
                generator=order,
                episodes=None if rows is None else np.asarray(episodes_of(demos, rows)),
                channels_last=images,
            )
        chunks = ActionChunks(demos, policy.chunk_size, self._bc.action_space) if foresees(policy) else None
        # One choice of many is stored in a few bytes, and prepared as a row of zeros and a one.
        prepared = 4 * int(policy.features_dim) + (0 if chunks is None else chunks.row_bytes)
        return ResidentBatches(
            demos,
            size,
            device=self._device,
            generator=order,
            rows=rows,
            channels_last=images,
            row_bytes=prepared,
            targets=chunks,
        )


class _BCLegs:
    """What the loop needs to know of a run in legs."""

    def __init__(self, run: LegRun, order: torch.Generator, state: Callable[[Progress], Mapping[str, Any]]) -> None:
        self.every = run.every
        self._run = run
        self._order = order
        self._state = state

    def begin_epoch(self, epoch: int) -> None:
        self._order.set_state(order_generator(self._run.seed, epoch).get_state())

    def end_leg(self, progress: Progress) -> None:
        self._run.next_leg(progress.batch, self._state(progress))

    @property
    def stop_asked(self) -> bool:
        return self._run.stop_asked

    def stop(self, progress: Progress) -> None:
        self._run.stop(self._state(progress))


def _shown(value: Any) -> Any:
    """An option of an optimiser as JSON has it."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _saved(result: BCResult) -> dict[str, Any]:
    """As arrays where it may be long."""
    return {
        "fit": dataclasses.asdict(result.fit),
        "validation_neglogp": np.array(result.validation_neglogp, dtype=np.float64),
        "best_epoch": result.best_epoch,
        "held_out_episodes": np.array(result.held_out_episodes, dtype=np.int64),
    }


def _result(saved: Mapping[str, Any]) -> BCResult:
    return BCResult(
        FitResult(**saved["fit"]),
        tuple(saved["validation_neglogp"].tolist()),
        saved["best_epoch"],
        tuple(saved["held_out_episodes"].tolist()),
    )
