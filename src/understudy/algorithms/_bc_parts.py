"""The documented pieces of behavioural cloning, for loops of one's own: loss, metrics, batch iteration, logging."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from understudy.algorithms._supervised import check_budget
from understudy.data import rollout
from understudy.data.dict_obs import map_maybe_dict, maybe_unwrap_dictobs
from understudy.data.types import TransitionMapping
from understudy.errors import EmptyDataError
from understudy.functional.cloning import HeadTerms, cloning_loss, l2_norm
from understudy.policies.heads import as_targets, log_likelihood
from understudy.util.lean_vec_env import first_of
from understudy.util.logger import HierarchicalLogger
from understudy.util.tensors import safe_to_tensor


@dataclasses.dataclass(frozen=True)
class BCTrainingMetrics:
    """The parts of the loss on one batch, each a scalar tensor."""

    neglogp: Tensor
    """Mean negative log-likelihood of the expert's actions, in nats."""

    entropy: Tensor | None
    """Mean entropy of the policy, in nats; where it has no closed form, its estimate −log π at the expert's action."""

    ent_loss: Tensor
    """−ent_weight · entropy."""

    prob_true_act: Tensor
    """Mean probability (density, for continuous actions) of the expert's action."""

    l2_norm: Tensor
    """½ Σ θ² over all parameters."""

    l2_loss: Tensor
    """l2_weight · l2_norm."""

    loss: Tensor
    """neglogp + ent_loss + l2_loss: what the gradient descends."""


def training_metrics(
    terms: HeadTerms, policy: ActorCriticPolicy, ent_weight: float, l2_weight: float, weights: Tensor | None = None
) -> BCTrainingMetrics:
    """Assemble the metrics of a batch from its log-likelihoods and entropies, each of shape (batch,)."""
    w = torch.ones_like(terms.log_prob) if weights is None else weights.to(terms.log_prob.dtype)
    entropy = (w * terms.entropy).mean()
    norm = l2_norm(list(policy.parameters()))
    l2_loss = l2_weight * norm
    return BCTrainingMetrics(
        neglogp=-(w * terms.log_prob).mean(),
        entropy=entropy,
        ent_loss=-ent_weight * entropy,
        prob_true_act=terms.log_prob.exp().mean(),
        l2_norm=norm,
        l2_loss=l2_loss,
        loss=cloning_loss(terms.log_prob, terms.entropy, ent_weight, w) + l2_loss,
    )


@dataclasses.dataclass(frozen=True)
class BehaviorCloningLossCalculator:
    """The loss of behavioural cloning as a callable."""

    ent_weight: float
    """Weight of the entropy bonus."""

    l2_weight: float
    """Weight of ½ Σ θ²."""

    def __call__(self, policy: ActorCriticPolicy, obs: Any, acts: Tensor | np.ndarray) -> BCTrainingMetrics:
        """Metrics of a batch, with a graph behind ``loss``.

        Args:
            policy: any actor-critic policy.
            obs: shape (batch, *obs), array or tensor, or a dictionary (or DictObs) of such.
            acts: shape (batch, *act), in the environment's values.
        """
        tensors = map_maybe_dict(lambda x: safe_to_tensor(x).to(policy.device), maybe_unwrap_dictobs(obs))
        dtype = next(policy.parameters()).dtype
        targets = as_targets(safe_to_tensor(acts).to(policy.device), policy.action_space, dtype)
        terms = log_likelihood(policy, tensors, targets)
        metrics = training_metrics(terms, policy, self.ent_weight, self.l2_weight)
        if self.l2_weight:  # the shared metrics are detached from the weights; this loss must not be
            l2_loss = self.l2_weight * 0.5 * torch.stack([p.square().sum() for p in policy.parameters()]).sum()
            metrics = dataclasses.replace(metrics, l2_loss=l2_loss, loss=metrics.loss - metrics.l2_loss + l2_loss)
        return metrics


@dataclasses.dataclass(frozen=True)
class BehaviorCloningTrainer:
    """Fits a policy to batches, one call a batch."""

    loss: BehaviorCloningLossCalculator
    optimizer: torch.optim.Optimizer
    policy: ActorCriticPolicy

    def __call__(self, batch: Mapping[str, Any]) -> BCTrainingMetrics:
        """One optimiser step on a mapping with ``obs`` and ``acts``; returns the metrics before it."""
        metrics = self.loss(self.policy, batch["obs"], batch["acts"])
        self.optimizer.zero_grad()
        metrics.loss.backward()
        self.optimizer.step()
        return metrics


@dataclasses.dataclass(frozen=True)
class BatchIteratorWithEpochEndCallback:
    """Loops over a loader for a number of epochs or batches and tells when an epoch ends.

    Raises:
        ConfigError: not exactly one of ``n_epochs`` and ``n_batches``.
    """

    batch_loader: Iterable[TransitionMapping]
    n_epochs: int | None
    n_batches: int | None
    on_epoch_end: Callable[[int], None] | None

    def __post_init__(self) -> None:
        check_budget(self.n_epochs, self.n_batches)

    def __iter__(self) -> Iterator[TransitionMapping]:
        """Batches of all epochs, one after the other.

        Raises:
            EmptyDataError: an epoch has no batch.
        """
        done = 0
        for epoch in range(self.n_epochs) if self.n_epochs is not None else itertools.count():
            before = done
            for batch in self.batch_loader:
                yield batch
                done += 1
                if done == self.n_batches:
                    return
            if done == before:
                raise EmptyDataError(
                    expected="a loader with at least one batch an epoch",
                    got=f"no batch in epoch {epoch}",
                    do="pass a loader that can be iterated again, such as a list or a DataLoader",
                )
            if self.on_epoch_end is not None:
                self.on_epoch_end(epoch)


def enumerate_batches(
    batch_it: Iterable[TransitionMapping],
) -> Iterable[tuple[tuple[int, int, int], TransitionMapping]]:
    """Yield ((batch number, batch size, samples so far), batch)."""
    samples = 0
    for number, batch in enumerate(batch_it):
        size = len(batch["acts"])
        samples += size
        yield (number, size, samples), batch


@dataclasses.dataclass(frozen=True)
class RolloutStatsComputer:
    """Returns of a policy while it trains; with no environment or no episodes, nothing.

    Of more environments than episodes wanted, only so many are stepped where they can be stepped alone.
    """

    venv: VecEnv | None
    n_episodes: int

    def __call__(self, policy: ActorCriticPolicy, rng: np.random.Generator) -> Mapping[str, float]:
        """``return_min``, ``return_mean``, ``return_std`` and ``return_max`` over at least ``n_episodes``."""
        if self.venv is None or self.n_episodes <= 0:
            return {}
        venv = first_of(self.venv, self.n_episodes)
        trajectories = rollout.rollout(
            policy, venv, rollout.make_min_episodes(self.n_episodes), rng, unwrap=False, verbose=False
        )
        stats = rollout.rollout_stats(trajectories)
        return {key: value for key, value in stats.items() if key.startswith("return_")}


class BCLogger:
    """Writes the metrics of behavioural cloning under ``bc/`` and returns under ``rollout/``."""

    def __init__(self, logger: HierarchicalLogger) -> None:
        self._logger = logger
        self._tensorboard_step = 0
        self._epoch = 0
        self._pending: dict[str, float] = {}

    @property
    def logger(self) -> HierarchicalLogger:
        """Where it writes."""
        return self._logger

    def state(self) -> dict[str, Any]:
        """Where its counters stand, and what waits to be written."""
        return {"tensorboard_step": self._tensorboard_step, "epoch": self._epoch, "pending": dict(self._pending)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._tensorboard_step, self._epoch = state["tensorboard_step"], state["epoch"]
        self._pending = dict(state["pending"])

    def reset_tensorboard_steps(self) -> None:
        """Plot from x = 0 again."""
        self._tensorboard_step = 0

    def log_epoch(self, epoch_number: int) -> None:
        """The epoch that the batches logged from now on belong to."""
        self._epoch = epoch_number

    def log_values(self, values: Mapping[str, float]) -> None:
        """Record further values under ``bc/``; they are written with the next batch."""
        self._pending.update(values)

    def log_batch(
        self,
        batch_num: int,
        batch_size: int,
        num_samples_so_far: int,
        training_metrics: BCTrainingMetrics,
        rollout_stats: Mapping[str, float],
    ) -> None:
        """Write one line of the log."""
        self._logger.record("batch_size", batch_size)
        self._logger.record("bc/epoch", self._epoch)
        self._logger.record("bc/batch", batch_num)
        self._logger.record("bc/samples_so_far", num_samples_so_far)
        for field in dataclasses.fields(training_metrics):
            value = getattr(training_metrics, field.name)
            self._logger.record(f"bc/{field.name}", None if value is None else float(value.detach()))
        for key, pending in self._pending.items():
            self._logger.record(f"bc/{key}", pending)
        self._pending = {}
        for key, value in rollout_stats.items():
            self._logger.record(f"rollout/{key}", value)
        self._logger.dump(self._tensorboard_step)
        self._tensorboard_step += 1


__all__ = [
    "BCLogger",
    "BCTrainingMetrics",
    "BatchIteratorWithEpochEndCallback",
    "BehaviorCloningLossCalculator",
    "BehaviorCloningTrainer",
    "RolloutStatsComputer",
    "enumerate_batches",
    "training_metrics",
]
