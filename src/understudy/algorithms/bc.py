"""Behavioural cloning (BC): supervised learning of the expert's actions.

Pomerleau (1991), "Efficient Training of Artificial Neural Networks for Autonomous Navigation",
https://doi.org/10.1162/neco.1991.3.1.88. The policy is fitted to pairs of observation and expert action by maximum
likelihood, as if they were independent; what it does once it leaves the expert's states is not part of the loss.

Differences from the paper:
    * a stochastic policy and its likelihood, instead of the squared error of one output image: it covers discrete,
      continuous and mixed actions with one loss;
    * an entropy bonus (``ent_weight``, small), which keeps the policy from growing certain on few samples;
    * Adam on shuffled minibatches instead of plain backpropagation;
    * no transformed sensor images: augmentation belongs into a ``DataLoader`` of the user's own.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms import base
from understudy.algorithms._bc_checks import (
    check_batch_norm,
    check_covered,
    check_optimizer,
    check_options,
    check_policy,
    check_spaces,
    check_venv,
    fused_where_possible,
)
from understudy.algorithms._bc_parts import (
    BatchIteratorWithEpochEndCallback,
    BCLogger,
    BCTrainingMetrics,
    BehaviorCloningLossCalculator,
    BehaviorCloningTrainer,
    RolloutStatsComputer,
    enumerate_batches,
    training_metrics,
)
from understudy.algorithms._cloning_steps import CloningStep, LossSettings, cloning_step
from understudy.algorithms._early_stopping import EarlyStopping, episodes_of, split_episodes
from understudy.algorithms._supervised import FitResult, Hooks, Position, Schedule, check_budget, fit
from understudy.data.batches import Batch, BatchSource, ResidentBatches, StreamBatches
from understudy.data.demonstrations import BatchStream, Demonstrations, as_demonstrations
from understudy.data.types import AnyPath, TransitionsMinimal
from understudy.errors import ConfigError
from understudy.policies.base import FeedForward32Policy, OffsetFeedForward32Policy
from understudy.policies.heads import action_offset
from understudy.util.devices import one_thread_if_small, resolve_device
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import make_seeds, torch_generator, torch_seeded

__all__ = [
    "BC",
    "BCLogger",
    "BCTrainingMetrics",
    "BatchIteratorWithEpochEndCallback",
    "BehaviorCloningLossCalculator",
    "BehaviorCloningTrainer",
    "RolloutStatsComputer",
    "enumerate_batches",
    "reconstruct_policy",
]

_log = logging.getLogger(__name__)
_DEFAULT_LEARNING_RATE = 1e-3  # torch's own default for Adam, kept so that the policy's optimiser is finite too


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


class BC(base.DemonstrationAlgorithm[TransitionsMinimal[Any]]):
    """Behavioural cloning of the expert in the demonstrations.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        rng: decides everything random: initial weights, order of the samples, rollouts. A generator, a seed, or None
            for a seed that is drawn and logged.
        policy: a Stable-Baselines3 actor-critic policy, trained in place (``PPO(...).policy`` goes on learning with
            PPO afterwards); None makes a FeedForward32Policy.
        demonstrations: anything the data door takes: trajectories, transitions, arrays, batches, a DataLoader, a path.
        batch_size: samples to an optimiser step. A DataLoader decides for itself.
        minibatch_size: accumulate gradients over pieces of this size, to save memory; must divide ``batch_size``.
        optimizer_cls: a ``torch.optim`` class.
        optimizer_kwargs: for it, ``lr`` among them; ``weight_decay`` is refused, use ``l2_weight``.
        ent_weight: weight of the entropy bonus, ≥ 0.
        l2_weight: weight of ½ Σ θ² over all parameters, ≥ 0.
        device: where to train; "auto" is the given policy's device, or a GPU if there is one.
        custom_logger: where to log; None writes to the terminal and a temporary folder.
        max_grad_norm: clip the gradient's Euclidean norm.
        lr_schedule: learning rate from the progress remaining (1 → 0); None keeps the optimiser's.
        compile: compile the step with ``torch.compile`` (True, or a backend's name). Plain networks are faster
            without.

    Raises:
        ConfigError: contradictory options.
        SpaceMismatchError: the policy's or the demonstrations' spaces are not these.
        UnsupportedSpaceError: a space that no Stable-Baselines3 policy takes.
        DataError: demonstrations that cannot be used; see ``as_demonstrations``.
    """

    def __init__(
        self,
        *,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        rng: np.random.Generator | int | None = None,
        policy: ActorCriticPolicy | None = None,
        demonstrations: base.AnyTransitions | None = None,
        batch_size: int = 32,
        minibatch_size: int | None = None,
        optimizer_cls: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        ent_weight: float = 1e-3,
        l2_weight: float = 0.0,
        device: str | torch.device = "auto",
        custom_logger: HierarchicalLogger | None = None,
        max_grad_norm: float | None = None,
        lr_schedule: Schedule | None = None,
        compile: bool | str = False,
    ) -> None:
        check_options(batch_size, minibatch_size, optimizer_kwargs, ent_weight, l2_weight, max_grad_norm)
        check_spaces(observation_space, action_space)
        self.rng = _generator(rng)
        self.observation_space = observation_space
        self.action_space = action_space
        self.batch_size = batch_size
        self.minibatch_size = minibatch_size
        self._policy = self._own_or_given(policy, device)
        self._demonstrations: Demonstrations | BatchStream | None = None
        super().__init__(demonstrations=demonstrations, custom_logger=custom_logger)
        check_optimizer(optimizer_cls)
        self.loss_calculator = BehaviorCloningLossCalculator(ent_weight, l2_weight)
        self.optimizer = optimizer_cls(
            self._policy.parameters(),
            **fused_where_possible(optimizer_cls, dict(optimizer_kwargs or {})),
        )
        self._lr_schedule = lr_schedule
        self._bc_logger: BCLogger | None = None
        self._choose_step = functools.partial(
            cloning_step,
            self._policy,
            self.optimizer,
            LossSettings(ent_weight, l2_weight, max_grad_norm),
            minibatch_size=minibatch_size,
            compile=compile,
        )
        self._step: CloningStep = self._choose_step()

    def _own_or_given(self, policy: ActorCriticPolicy | None, device: str | torch.device) -> ActorCriticPolicy:
        if policy is not None:
            check_policy(policy, self.observation_space, self.action_space)
            return policy if device == "auto" else policy.to(resolve_device(device))
        extractor = CombinedExtractor if isinstance(self.observation_space, spaces.Dict) else FlattenExtractor
        # Stable-Baselines3 draws initial weights from torch's global generator.
        policy_class = OffsetFeedForward32Policy if np.any(action_offset(self.action_space)) else FeedForward32Policy
        with torch_seeded(self.rng):
            own = policy_class(
                observation_space=self.observation_space,
                action_space=self.action_space,
                lr_schedule=lambda _: _DEFAULT_LEARNING_RATE,
                features_extractor_class=extractor,
            )
        return own.to(resolve_device(device))

    @property
    def policy(self) -> ActorCriticPolicy:
        """The policy being trained."""
        return self._policy

    @property
    def path(self) -> str:
        """How steps are computed: "closed_form", "autograd" or "compiled".

        Decided when BC is made, and again by ``train`` where plain layers were frozen or replaced since.
        """
        return self._step.path

    def set_demonstrations(self, demonstrations: base.AnyTransitions) -> None:
        """Replace the demonstrations.

        Raises:
            SpaceMismatchError: they do not fit the spaces.
            DataError: they cannot be used; see ``as_demonstrations``.
        """
        # The policy's spaces, not the environment's: Stable-Baselines3 policies take images channels-first.
        self._demonstrations = as_demonstrations(
            demonstrations, observation_space=self._policy.observation_space, action_space=self.action_space
        )

    def train(
        self,
        *,
        n_epochs: int | None = None,
        n_batches: int | None = None,
        on_epoch_end: Callable[[], None] | None = None,
        on_batch_end: Callable[[], None] | None = None,
        log_interval: int = 500,
        log_rollouts_venv: VecEnv | None = None,
        log_rollouts_n_episodes: int = 5,
        progress_bar: bool = True,
        reset_tensorboard: bool = False,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        save_best: bool = True,
    ) -> BCResult:
        """Fit the policy; may be called again to go on.

        Args:
            n_epochs: whole passes over the demonstrations. Give exactly one of this and ``n_batches``.
            n_batches: optimiser steps.
            on_epoch_end: called after each whole pass.
            on_batch_end: called after each step.
            log_interval: batches between two lines of the log.
            log_rollouts_venv: environments in which to measure returns whenever a line is logged.
            log_rollouts_n_episodes: episodes for that; none if not positive.
            progress_bar: show one, with the time left.
            reset_tensorboard: plot from x = 0 even if an earlier call logged.
            validation_fraction: part of the *episodes* to hold out, in [0, 1); their loss is logged each epoch.
            patience: stop after so many epochs without a better validation loss.
            save_best: with validation, end with the parameters of the best epoch.

        Raises:
            ConfigError: contradictory options, or no demonstrations yet.
            DataError: validation on data that does not tell its episodes.
            TrainingDivergedError: numbers became NaN or infinite; the last finite parameters are back.
        """
        check_budget(n_epochs, n_batches)
        if log_interval < 1:
            raise ConfigError(expected="`log_interval` ≥ 1", got=str(log_interval), do="log every 500 batches")
        if log_rollouts_venv is not None:
            check_venv(log_rollouts_venv, self.observation_space, self.action_space)
        bc_logger = self._ready_logger(reset_tensorboard)
        # Spawned, so that what is logged never changes what is learned.
        rollout_rng = np.random.default_rng(make_seeds(self.rng))
        check_covered(self._policy, self.optimizer)
        if not self._step.still_fits():
            self._step = self._choose_step()
        source, stopping = self._source(validation_fraction, patience, save_best)
        compute_rollout_stats = RolloutStatsComputer(log_rollouts_venv, log_rollouts_n_episodes)

        def before_logged_batch(position: Position, batch: Batch) -> BCTrainingMetrics:
            calculator = self.loss_calculator
            return training_metrics(
                self._step.terms(batch), self._policy, calculator.ent_weight, calculator.l2_weight, batch.weights
            )

        def log(position: Position, batch: Batch, metrics: BCTrainingMetrics) -> None:
            bc_logger.log_epoch(position.epoch)
            stats = compute_rollout_stats(self._policy, rollout_rng)
            bc_logger.log_batch(position.batch, len(batch), position.samples, metrics, stats)

        def at_epoch_end(epoch: int) -> bool:
            stop = False
            if stopping is not None:
                bc_logger.log_values({"validation_neglogp": stopping.measure(epoch, self._step)})
                stop = stopping.should_stop
            if on_epoch_end is not None:
                on_epoch_end()
            return stop

        rows = self.minibatch_size or self.batch_size
        work = rows * sum(p.numel() for p in self._policy.parameters())
        with torch_seeded(self.rng, self._policy.device), one_thread_if_small(work), self._step.running():
            result = fit(
                self._step,
                source,
                n_epochs=n_epochs,
                n_batches=n_batches,
                hooks=Hooks(log_interval, before_logged_batch, log, on_batch_end, at_epoch_end),
                schedule=self._lr_schedule,
                progress_bar=progress_bar,
                description="cloning",
            )
            if stopping is not None:
                stopping.finish(self._step)
        if stopping is None:
            return BCResult(result)
        return BCResult(result, tuple(stopping.losses), stopping.best_epoch, stopping.episodes)

    def _ready_logger(self, reset_tensorboard: bool) -> BCLogger:
        if self._bc_logger is None or self._bc_logger.logger is not self.logger:
            self._bc_logger = BCLogger(self.logger)
        if reset_tensorboard:
            self._bc_logger.reset_tensorboard_steps()
        return self._bc_logger

    def _source(
        self, validation_fraction: float, patience: int | None, save_best: bool
    ) -> tuple[BatchSource, EarlyStopping | None]:
        demos = self._demonstrations
        if demos is None:
            raise ConfigError(
                expected="demonstrations to learn from",
                got="none so far",
                do="pass demonstrations=… to BC, or call set_demonstrations before train",
            )
        device = self._policy.device
        images = any(isinstance(m, torch.nn.Conv2d) for m in self._policy.modules())
        if isinstance(demos, BatchStream):
            if validation_fraction:
                raise ConfigError(
                    expected="demonstrations in hand for a validation split",
                    got="a DataLoader",
                    do="pass trajectories or arrays, or hold episodes out before building the loader",
                )
            return StreamBatches(demos, device=device, channels_last=images), None
        # One choice of many is stored in a few bytes, and prepared as a row of zeros and a one.
        prepared = 4 * int(self._policy.features_dim)
        rows, held_out = split_episodes(demos, validation_fraction, self.rng)
        source = ResidentBatches(
            demos,
            self.batch_size,
            device=device,
            generator=torch_generator(self.rng),
            rows=rows,
            channels_last=images,
            row_bytes=prepared,
        )
        check_batch_norm(self._policy, source.n_rows, self.minibatch_size or self.batch_size)
        if held_out is None:
            if patience is not None:
                raise ConfigError(
                    expected="`validation_fraction` > 0 with `patience`",
                    got="patience without held-out episodes",
                    do="pass validation_fraction=0.1",
                )
            return source, None
        validation = ResidentBatches(
            demos, 1024, device=device, generator=None, rows=held_out, channels_last=images, row_bytes=prepared
        )
        return source, EarlyStopping(validation, patience, save_best, episodes_of(demos, held_out))

    def save_policy(self, policy_path: AnyPath) -> None:
        """Write the policy to one file; ``reconstruct_policy`` reads it."""
        from understudy.policies import serialize  # reads and writes files: only when asked

        serialize.save_policy(self._policy, policy_path)


def reconstruct_policy(policy_path: AnyPath, device: torch.device | str = "auto") -> ActorCriticPolicy:
    """Read a policy that ``BC.save_policy`` wrote.

    Raises:
        CorruptFileError: the file is damaged or no saved policy.
    """
    from understudy.policies import serialize

    policy = serialize.load_saved_policy(policy_path, device=device)
    if not isinstance(policy, ActorCriticPolicy):
        raise ConfigError(
            expected=f"an actor-critic policy in {os.fsdecode(policy_path)}",
            got=type(policy).__name__,
            do="load it with understudy.policies.serialize.load_saved_policy",
        )
    return policy


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if rng is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        _log.warning("BC was given no rng: drew the seed %d; pass rng=%d to repeat this run", seed, seed)
        return np.random.default_rng(seed)
    return np.random.default_rng(rng)
