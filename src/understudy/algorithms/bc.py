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
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms import base
from understudy.algorithms._bc_checks import (
    check_covered,
    check_memory,
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
)
from understudy.algorithms._bc_state import BCOptions
from understudy.algorithms._bc_training import BCResult, BCTraining, Wishes
from understudy.algorithms._cloning_steps import CloningStep, LossSettings, cloning_step
from understudy.algorithms._network_state import (
    compile_option,
    freeze_again,
    frozen_names,
    optimizer_class,
    passing_buffers,
    restore_optimizer,
    restore_passing_buffers,
)
from understudy.algorithms._sequence_steps import sequence_step
from understudy.algorithms._supervised import Schedule, check_budget
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.chunks import check_chunks
from understudy.data.demonstrations import BatchStream, Demonstrations, as_demonstrations
from understudy.data.sequences import check_episodes_known
from understudy.data.types import AnyPath, TransitionsMinimal
from understudy.errors import ConfigError
from understudy.policies.base import FeedForward32Policy, OffsetFeedForward32Policy
from understudy.policies.chunks import foresees
from understudy.policies.heads import action_offset
from understudy.policies.recurrent import is_recurrent
from understudy.util.checkpoint import Writer, latest, read_checkpoint, using
from understudy.util.devices import resolve_device
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import generator_from, generator_state, torch_seeded
from understudy.util.space_json import space_from_json, space_to_json

__all__ = [
    "BC",
    "BCLogger",
    "BCResult",
    "BCTrainingMetrics",
    "BatchIteratorWithEpochEndCallback",
    "BehaviorCloningLossCalculator",
    "BehaviorCloningTrainer",
    "RolloutStatsComputer",
    "enumerate_batches",
    "reconstruct_policy",
]

_log = logging.getLogger(__name__)
_POLICY_FILE = "policy.safetensors"
_DEFAULT_LEARNING_RATE = 1e-3  # torch's own default for Adam, kept so that the policy's optimiser is finite too


class BC(base.DemonstrationAlgorithm[TransitionsMinimal[Any]]):
    """Behavioural cloning of the expert in the demonstrations.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        rng: decides everything random: initial weights, order of the samples, rollouts. A generator, a seed, or None
            for a seed that is drawn and logged.
        policy: a Stable-Baselines3 actor-critic policy, trained in place (``PPO(...).policy`` goes on learning with
            PPO afterwards), or one with memory of sb3-contrib (``RecurrentPPO(...).policy``), trained on sequences;
            None makes a FeedForward32Policy.
        demonstrations: anything the data door takes: trajectories, transitions, arrays, batches, a DataLoader, a path.
        batch_size: samples to an optimiser step. A DataLoader decides for itself. With memory, as many sequences as
            hold about so many samples, and at least one.
        minibatch_size: accumulate gradients over pieces of this size, to save memory; must divide ``batch_size``. With
            memory, whole sequences until there are as many samples.
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
        sequence_length: for a policy with memory, cut episodes into sequences of at most so many steps, each from an
            empty memory; None is 128. What has to be remembered for longer is not learned.
        burn_in: for a policy with memory, let up to so many steps before a sequence that begins in the middle of an
            episode run the memory, without loss and without gradient.

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
        sequence_length: int | None = None,
        burn_in: int = 0,
    ) -> None:
        check_options(batch_size, minibatch_size, optimizer_kwargs, ent_weight, l2_weight, max_grad_norm)
        check_spaces(observation_space, action_space)
        self.rng = _generator(rng)
        self.observation_space = observation_space
        self.action_space = action_space
        self.batch_size = batch_size
        self.minibatch_size = minibatch_size
        self._policy = self._own_or_given(policy, device)
        check_memory(self._policy, sequence_length, burn_in)
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self._demonstrations: Demonstrations | BatchStream | None = None
        super().__init__(demonstrations=demonstrations, custom_logger=custom_logger)
        check_optimizer(optimizer_cls)
        self.loss_calculator = BehaviorCloningLossCalculator(ent_weight, l2_weight)
        self.optimizer = optimizer_cls(
            self._policy.parameters(),
            **fused_where_possible(optimizer_cls, dict(optimizer_kwargs or {})),
        )
        self._lr_schedule = lr_schedule
        self._compile = compile
        self._bc_logger: BCLogger | None = None
        self._choose_step = functools.partial(
            sequence_step if is_recurrent(self._policy) else cloning_step,
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
        found = as_demonstrations(
            demonstrations, observation_space=self._policy.observation_space, action_space=self.action_space
        )
        if is_recurrent(self._policy):
            check_episodes_known(found)
        if foresees(self._policy):
            check_chunks(found)
        self._demonstrations = found

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
        checkpoints: Checkpoints | None = None,
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
            checkpoints: save as the training goes, so that it can be resumed exactly; its unit is optimiser steps. A
                DataLoader is saved only between its passes, and must give the same batches again.

        Raises:
            ConfigError: contradictory options, or no demonstrations yet.
            DataError: validation on data that does not tell its episodes.
            TrainingDivergedError: numbers became NaN or infinite; the last finite parameters are back.
            CheckpointError: a checkpoint could not be written or read; earlier ones are untouched.
            RunLockedError: another process trains with these checkpoints.
            TrainingInterrupted: with ``checkpoints``, Ctrl-C or SIGTERM; what was learned is saved.
        """
        check_budget(n_epochs, n_batches)
        if log_interval < 1:
            raise ConfigError(expected="`log_interval` ≥ 1", got=str(log_interval), do="log every 500 batches")
        if log_rollouts_venv is not None:
            check_venv(log_rollouts_venv, self.observation_space, self.action_space)
        wishes = Wishes(
            n_epochs=n_epochs,
            n_batches=n_batches,
            on_epoch_end=on_epoch_end,
            on_batch_end=on_batch_end,
            log_interval=log_interval,
            log_rollouts_venv=log_rollouts_venv,
            log_rollouts_n_episodes=log_rollouts_n_episodes,
            progress_bar=progress_bar,
            validation_fraction=validation_fraction,
            patience=patience,
            save_best=save_best,
            checkpoints=checkpoints,
        )
        bc_logger = self._ready_logger(reset_tensorboard)
        check_covered(self._policy, self.optimizer)
        if not self._step.still_fits():
            self._step = self._choose_step()
        return BCTraining(self, self._demonstrations, self._step, self._lr_schedule, bc_logger, wishes).run()

    def _ready_logger(self, reset_tensorboard: bool) -> BCLogger:
        if self._bc_logger is None or self._bc_logger.logger is not self.logger:
            self._bc_logger = BCLogger(self.logger)
        if reset_tensorboard:
            self._bc_logger.reset_tensorboard_steps()
        return self._bc_logger

    def state(self) -> dict[str, Any]:
        """Parameters, optimiser, random generator and counters."""
        return {
            "options": dataclasses.asdict(self._options()),
            "policy": dict(self._policy.state_dict()),
            "frozen": frozen_names(self._policy),
            "buffers": passing_buffers(self._policy),
            "optimizer": self.optimizer.state_dict(),
            "rng": generator_state(self.rng),
            "logger": None if self._bc_logger is None else self._bc_logger.state(),
        }

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Become what was saved in ``folder``; the policy must have the same architecture.

        Raises:
            CorruptFileError: the state is not one of behavioural cloning.
            CheckpointError: it belongs to another policy or optimiser.
        """
        from understudy.policies.weights import load_weights  # reads files: only when asked

        load_weights(self._policy, folder / _POLICY_FILE)
        freeze_again(self._policy, state["frozen"])
        restore_passing_buffers(self._policy, state["buffers"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.rng = generator_from(state["rng"])
        if state["logger"] is not None:
            self._ready_logger(reset_tensorboard=False).restore(state["logger"])

    def _options(self) -> BCOptions:
        return BCOptions(
            observation_space=space_to_json(self.observation_space),
            action_space=space_to_json(self.action_space),
            batch_size=self.batch_size,
            minibatch_size=self.minibatch_size,
            ent_weight=self.loss_calculator.ent_weight,
            l2_weight=self.loss_calculator.l2_weight,
            max_grad_norm=self._step.settings.max_grad_norm,
            compile=self._compile,
            optimizer=type(self.optimizer).__name__,
            lr_schedule=self._lr_schedule is not None,
            sequence_length=self.sequence_length,
            burn_in=self.burn_in,
        )

    def _parts_in_files(self) -> Mapping[str, Writer]:
        return {"policy": self.save_policy}

    @classmethod
    def load(
        cls,
        path: AnyPath,
        demonstrations: base.AnyTransitions | None = None,
        *,
        device: str | torch.device = "auto",
        custom_logger: HierarchicalLogger | None = None,
        optimizer_cls: type[torch.optim.Optimizer] | None = None,
        lr_schedule: Schedule | None = None,
        compile: bool | str | None = None,
        custom_objects: Mapping[str, Any] | None = None,
    ) -> BC:
        """Make the trainer that ``save`` wrote, or that a training with ``checkpoints=`` left.

        ``train`` then goes on from its parameters and moments with a budget of its own. To finish an interrupted
        training exactly, make BC as before and pass ``checkpoints=Checkpoints(folder, resume=True)`` to ``train``.

        Args:
            path: a folder of ``save``; or a run's folder of checkpoints, for the newest that verifies.
            demonstrations: to go on learning from; they are not kept in the file.
            device: where to put the policy.
            custom_logger: where to log.
            optimizer_cls: needed only where it is not one of torch's.
            lr_schedule: needed only where there was one: functions are not kept.
            compile: None takes what it was saved with; needed only where that named a backend of your own.
            custom_objects: by name, classes of the policy's that this library does not know.

        Raises:
            MissingFileError: no checkpoint there.
            CorruptFileError: truncated or altered.
            ConfigError: something is needed that is not kept in files.
        """
        checkpoint = read_checkpoint(latest(path) or path, kind=cls.__name__)
        with using(checkpoint.path):
            state = checkpoint.state["trainer"]
            options = BCOptions.of(state["options"])
            if options.lr_schedule and lr_schedule is None:
                raise ConfigError(
                    expected="`lr_schedule`, since the trainer was saved with one",
                    got="none",
                    do="pass the same function again, or lr_schedule=lambda remaining: 1e-3",
                )
            from understudy.policies.serialize import load_saved_policy

            policy = load_saved_policy(checkpoint.path / _POLICY_FILE, device, custom_objects)
            made = cls(
                observation_space=space_from_json(options.observation_space),
                action_space=space_from_json(options.action_space),
                rng=generator_from(state["rng"]),
                policy=_actor_critic(policy, checkpoint.path),
                demonstrations=demonstrations,
                batch_size=options.batch_size,
                minibatch_size=options.minibatch_size,
                optimizer_cls=optimizer_class(options.optimizer, optimizer_cls),
                ent_weight=options.ent_weight,
                l2_weight=options.l2_weight,
                custom_logger=custom_logger,
                max_grad_norm=options.max_grad_norm,
                lr_schedule=lr_schedule,
                compile=compile_option(options.compile, compile),
                sequence_length=options.sequence_length,
                burn_in=options.burn_in,
            )
            made.restore(state, checkpoint.path)
            return made

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

    return _actor_critic(serialize.load_saved_policy(policy_path, device=device), policy_path)


def _actor_critic(policy: BasePolicy, path: AnyPath) -> ActorCriticPolicy:
    if not isinstance(policy, ActorCriticPolicy):
        raise ConfigError(
            expected=f"an actor-critic policy in {os.fsdecode(path)}",
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
