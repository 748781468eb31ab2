"""Pretraining: behavioural cloning of the very Stable-Baselines3 model that goes on with reinforcement learning.

Pomerleau (1991), "Efficient Training of Artificial Neural Networks for Autonomous Navigation",
https://doi.org/10.1162/neco.1991.3.1.88, as ``pretrain`` of Stable-Baselines 2 made it known; demonstrations in the
replay buffer and a margin for the critic follow Hester et al. (2018), "Deep Q-learning from Demonstrations",
https://arxiv.org/abs/1704.03732.

Differences from Stable-Baselines 2:
    * nothing is initialised again: what a model knows it keeps;
    * log-likelihood for stochastic actors instead of the squared error of their mean;
    * Q-networks' targets are brought in line afterwards, so that learning does not start from another network;
    * the critic can be warmed up and the replay buffer filled, without which learning soon forgets the clone;
    * VecNormalize is respected: demonstrations are given in the environment's own observations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from understudy.algorithms._bc_checks import check_batch_norm, check_options, fused_where_possible
from understudy.algorithms._cloning_steps import LossSettings
from understudy.algorithms._early_stopping import check_split, episodes_of, split_episodes
from understudy.algorithms._pretrain_anchor import Anchor
from understudy.algorithms._pretrain_close import StayClose
from understudy.algorithms._pretrain_critic import CriticReport, CriticWarmup, warm_up
from understudy.algorithms._pretrain_data import UnknownEnds, Views, ends_of, in_memory, read_views, rewards_seen
from understudy.algorithms._pretrain_families import Family, check_model, family_of
from understudy.algorithms._pretrain_hold import HoldActor
from understudy.algorithms._pretrain_replay import check_room, fill, replay_buffer_of
from understudy.algorithms._pretrain_steps import PretrainStep, pretrain_step, trained_module
from understudy.algorithms._pretrain_values import critic_only
from understudy.algorithms._supervised import FitResult, Hooks, check_budget, fit
from understudy.data.batches import BatchSource, ResidentBatches, StreamBatches
from understudy.data.demonstrations import BatchStream, Demonstrations, RowRanges
from understudy.data.sequences import SequenceBatches
from understudy.data.stable_baselines import ExpertDataset
from understudy.errors import ConfigError
from understudy.util import logger as logging_door
from understudy.util.devices import one_thread_if_small
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import torch_generator, torch_seeded

__all__ = [
    "Anchor",
    "CriticReport",
    "CriticWarmup",
    "EpochLosses",
    "HoldActor",
    "PretrainResult",
    "StayClose",
    "pretrain",
]

_log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseAlgorithm)


@dataclasses.dataclass(frozen=True)
class EpochLosses:
    """Mean losses after an epoch, in evaluation mode.

    Nats for policies that give probabilities or Q-values; squared units of the action for deterministic actors.
    """

    epoch: int
    """Counted from 0."""

    train: float
    """On the transitions trained on."""

    validation: float | None
    """On what was held out, if anything was."""


@dataclasses.dataclass(frozen=True)
class PretrainResult(Generic[Model]):
    """What a call of ``pretrain`` did."""

    model: Model
    """The model that was given, trained in place."""

    fit: FitResult
    """Epochs, batches and samples."""

    losses: tuple[EpochLosses, ...]
    """Every ``val_interval`` epochs, and after the last."""

    held_out_episodes: int = 0
    """Whole episodes kept for validation; 0 for an ExpertDataset split by transitions."""

    critic: CriticReport | None = None
    """Of the warm-up, if one was asked for."""

    n_replayed: int = 0
    """Transitions put into the replay buffer."""


def pretrain(
    model: Model,
    demonstrations_or_dataset: Any,
    n_epochs: int = 10,
    learning_rate: float = 1e-4,
    adam_epsilon: float = 1e-8,
    val_interval: int | None = None,
    *,
    batch_size: int | None = None,
    validation_fraction: float | None = None,
    rng: np.random.Generator | int | None = None,
    ent_weight: float = 0.0,
    max_grad_norm: float | None = None,
    critic_warmup: CriticWarmup | int = 0,
    fill_replay_buffer: bool = False,
    unknown_ends: UnknownEnds | None = None,
    update_normalization: bool = False,
    progress_bar: bool = True,
    custom_logger: HierarchicalLogger | None = None,
) -> PretrainResult[Model]:
    """Clone the expert into a model's own networks, in place; ``model.learn`` goes on from there.

    PPO, A2C, TRPO, RecurrentPPO and MaskablePPO learn by the log-likelihood of the expert's actions; DQN and QRDQN by
    the cross-entropy of their Q-values, read as logits; SAC, TD3, DDPG and TQC by the squared error of their
    deterministic action, in the environment's units. The model's own optimisers and their learning rates are untouched.

    Args:
        model: of Stable-Baselines3 or sb3-contrib.
        demonstrations_or_dataset: anything the data door takes, in the environment's own observations and actions (a
            VecNormalize of the model's is applied here). A DataLoader is read anew each epoch where nothing else is
            asked for than cloning.
        n_epochs: passes over the demonstrations.
        learning_rate: of pretraining's own Adam.
        adam_epsilon: likewise.
        val_interval: epochs between two measurements; None is every epoch below ten, a tenth of them otherwise.
        batch_size: transitions to a step; None is the dataset's own, or 64. Policies with memory take as
            many whole episodes as hold about so many, at least one.
        validation_fraction: part of the *episodes* to hold out, in [0, 1); None is an ExpertDataset's own split, or
            nothing. What is held out still takes part in the warm-up of the critic and fills the replay buffer.
        rng: decides the order of the transitions. A generator, a seed, or None for a seed that is drawn and logged.
        ent_weight: weight of an entropy bonus, ≥ 0, for policies that give probabilities.
        max_grad_norm: clip the gradient's Euclidean norm.
        critic_warmup: passes in which the critic learns the demonstrations' returns, or a CriticWarmup (True for its
            defaults); 0 for none.
        fill_replay_buffer: put the demonstrations into an off-policy model's replay buffer.
        unknown_ends: how episodes end where the data does not say, for the critic and the replay buffer.
        update_normalization: let the demonstrations move the statistics of the model's VecNormalize first. Right for
            one that has seen nothing yet; otherwise it changes what the model already knows.
        progress_bar: show one, with the time left.
        custom_logger: where to log under ``pretrain/``; None prints for a model with ``verbose`` > 0.

    Raises:
        ConfigError: no such model, or contradictory options.
        UnsupportedSpaceError: actions that the model could not give.
        SpaceMismatchError: demonstrations of other spaces.
        DataError: demonstrations that cannot be used, or that lack what was asked of them.
        TrainingDivergedError: numbers became NaN or infinite; the last finite parameters are back.
    """
    family = family_of(model)
    check_model(model, family)
    dataset = demonstrations_or_dataset if isinstance(demonstrations_or_dataset, ExpertDataset) else None
    if batch_size is None:
        batch_size = 64 if dataset is None else int(dataset.train_loader.batch_size)
    split = None
    if validation_fraction is None and dataset is not None and family != "recurrent":
        split = (np.sort(dataset.train_indices), np.sort(dataset.val_indices))
    validation_fraction = validation_fraction or 0.0
    _check_options(n_epochs, learning_rate, adam_epsilon, val_interval, batch_size, ent_weight, max_grad_norm)
    wish = critic_warmup if isinstance(critic_warmup, CriticWarmup) else _warmup(critic_warmup)
    if fill_replay_buffer:
        replay_buffer_of(model)
    in_hand = bool(wish or fill_replay_buffer or validation_fraction or update_normalization or family == "recurrent")
    generator = _generator(rng)
    # Everything that can be refused is refused before anything moves.
    views = read_views(model, demonstrations_or_dataset, in_hand=in_hand, update_normalization=False)
    if wish or fill_replay_buffer:
        assert isinstance(views.seen, Demonstrations)
        rewards_seen(views.seen, None)
        ends_of(views.seen, unknown_ends)
        if wish and family in ("likelihood", "recurrent"):
            critic_only(model, family, views.seen)
        if fill_replay_buffer:
            check_room(replay_buffer_of(model), len(views.seen))
    if isinstance(views.seen, Demonstrations):
        check_split(views.seen, validation_fraction)
    if update_normalization:
        views = read_views(model, views.raw, in_hand=True, update_normalization=True)
    settings = LossSettings(ent_weight, 0.0, max_grad_norm)
    kwargs = fused_where_possible(torch.optim.Adam, {"lr": learning_rate, "eps": adam_epsilon})
    optimizer = torch.optim.Adam(trained_module(model, family).parameters(), **kwargs)
    step = pretrain_step(model, family, optimizer, settings)
    work = batch_size * sum(p.numel() for p in model.policy.parameters())
    with one_thread_if_small(work), _left_as_found(model), torch_seeded(generator, model.device):
        cloning = _Cloning(model, family, views, batch_size, validation_fraction, split, generator)
        logger = custom_logger or (logging_door.configure() if model.verbose > 0 else None)
        interval = val_interval or max(1, n_epochs // 10)
        done, losses = cloning.run(step, n_epochs, interval, logger, progress_bar)
        report = None
        if wish is not None:
            assert isinstance(views.seen, Demonstrations)
            seen = in_memory(views.seen)
            rews, ends = rewards_seen(seen, views.vec_normalize), ends_of(seen, unknown_ends)
            report = warm_up(model, family, seen, rews, ends, wish, generator, progress_bar)
        _align_targets(model, family, critic_too=wish is not None)
    n_replayed = 0
    if fill_replay_buffer:
        assert isinstance(views.raw, Demonstrations)
        raw = in_memory(views.raw)
        n_replayed = fill(model, raw, rewards_seen(raw, None), ends_of(raw, unknown_ends))
    return PretrainResult(model, done, losses, cloning.n_held_out, report, n_replayed)


class _Cloning:
    """Batches of the training and of the held-out episodes, and what is measured on them."""

    def __init__(
        self,
        model: BaseAlgorithm,
        family: Family,
        views: Views,
        batch_size: int,
        validation_fraction: float,
        split: tuple[np.ndarray, np.ndarray] | None,
        rng: np.random.Generator,
    ) -> None:
        self._model = model
        self._batch_size = batch_size
        self._recurrent = family == "recurrent"
        self._demos = views.seen
        self._images = any(isinstance(m, torch.nn.Conv2d) for m in model.policy.modules())
        self.n_held_out = 0
        self._train: np.ndarray | RowRanges | None = None
        self._held_out: np.ndarray | RowRanges | None = None
        if split is not None:
            self._train, self._held_out = split[0], split[1] if len(split[1]) else None
        elif isinstance(self._demos, Demonstrations):
            self._train, self._held_out = split_episodes(self._demos, validation_fraction, rng)
            if isinstance(self._held_out, RowRanges):
                self.n_held_out = len(self._held_out.starts)
        self._shuffled = self._batches(self._train, torch_generator(rng))
        if isinstance(self._shuffled, ResidentBatches):
            check_batch_norm(cast(Any, model.policy), self._shuffled.n_rows, batch_size)

    def _batches(self, rows: np.ndarray | RowRanges | None, order: torch.Generator | None) -> BatchSource:
        demos, device = self._demos, self._model.device
        if isinstance(demos, BatchStream):
            return StreamBatches(demos, device=device, channels_last=self._images)
        size = self._batch_size if order is not None else max(1024, self._batch_size)
        if self._recurrent:
            episodes = np.array(episodes_of(demos, rows)) if isinstance(rows, RowRanges) else None
            return SequenceBatches(demos, size, sequence_length=None, device=device, generator=order, episodes=episodes)
        return ResidentBatches(demos, size, device=device, generator=order, rows=rows, channels_last=self._images)

    def run(
        self, step: PretrainStep, n_epochs: int, interval: int, logger: HierarchicalLogger | None, progress_bar: bool
    ) -> tuple[FitResult, tuple[EpochLosses, ...]]:
        losses: list[EpochLosses] = []

        def at_epoch_end(epoch: int) -> bool:
            if (epoch + 1) % interval == 0 or epoch == n_epochs - 1:
                held_out = (
                    None if self._held_out is None else self._mean_loss(step, self._batches(self._held_out, None))
                )
                losses.append(EpochLosses(epoch, self._mean_loss(step, self._batches(self._train, None)), held_out))
                _write(logger, losses[-1])
            return False

        with step.running():
            done = fit(
                step,
                self._shuffled,
                n_epochs=n_epochs,
                hooks=Hooks(on_epoch_end=at_epoch_end),
                progress_bar=progress_bar,
                description="pretraining",
            )
        return done, tuple(losses)

    def _mean_loss(self, step: PretrainStep, source: BatchSource) -> float:
        total, weight = 0.0, 0.0
        for chunk in source.epoch():
            prepared = step.prepare(chunk)
            for batch in [prepared] if source.batch_size is None else prepared.split(source.batch_size):
                losses = step.losses(batch).double()
                w = torch.ones_like(losses) if batch.weights is None else batch.weights.double()
                total += float((w * losses).sum())
                weight += float(w.sum())
        return total / weight if weight else 0.0


def _write(logger: HierarchicalLogger | None, losses: EpochLosses) -> None:
    if logger is None:
        return
    logger.record("pretrain/epoch", losses.epoch)
    logger.record("pretrain/train_loss", losses.train)
    if losses.validation is not None:
        logger.record("pretrain/validation_loss", losses.validation)
    logger.dump(losses.epoch)


def _warmup(n_epochs: int) -> CriticWarmup | None:
    if n_epochs is True:
        return CriticWarmup()
    if n_epochs < 0:
        raise ConfigError(
            expected="`critic_warmup` as a number of epochs ≥ 0, or a CriticWarmup", got=str(n_epochs), do="pass 50"
        )
    return CriticWarmup(n_epochs=int(n_epochs)) if n_epochs else None


def _check_options(
    n_epochs: int,
    learning_rate: float,
    adam_epsilon: float,
    val_interval: int | None,
    batch_size: int,
    ent_weight: float,
    max_grad_norm: float | None,
) -> None:
    check_budget(n_epochs, None)
    check_options(batch_size, None, None, ent_weight, 0.0, max_grad_norm)
    for name, value in (("learning_rate", learning_rate), ("adam_epsilon", adam_epsilon)):
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(expected=f"a finite `{name}` > 0", got=repr(value), do="the defaults are 1e-4 and 1e-8")
    if val_interval is not None and val_interval < 1:
        raise ConfigError(expected="`val_interval` ≥ 1", got=str(val_interval), do="leave it out for ten measurements")


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if rng is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        _log.info("pretrain was given no rng: drew the seed %d; pass rng=%d to repeat this run", seed, seed)
        return np.random.default_rng(seed)
    return np.random.default_rng(rng)


@contextlib.contextmanager
def _left_as_found(model: BaseAlgorithm) -> Iterator[None]:
    """The policy's mode as before, and no gradient left for the model's own optimisers to find."""
    training = model.policy.training
    try:
        yield
    finally:
        model.policy.set_training_mode(training)
        for parameter in model.policy.parameters():
            parameter.grad = None


def _align_targets(model: BaseAlgorithm, family: Family, *, critic_too: bool) -> None:
    """Target networks follow what was trained; a learner that met an older target would unlearn the clone."""
    policy: Any = model.policy
    pairs = {
        "q_values": [("q_net", "q_net_target")],
        "quantiles": [("quantile_net", "quantile_net_target")],
        "actor": [("actor", "actor_target"), *([("critic", "critic_target")] if critic_too else [])],
    }.get(family, [])
    for source, target in pairs:
        network = getattr(policy, target, None)
        if network is not None:
            network.load_state_dict(getattr(policy, source).state_dict())
