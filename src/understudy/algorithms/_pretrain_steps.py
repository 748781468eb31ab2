"""One step of pretraining for each family of policies, in the form that the training loop takes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor, nn

from understudy.algorithms._cloning_steps import CloningStep, LossSettings, cloning_step
from understudy.algorithms._pretrain_families import Family
from understudy.algorithms._sequence_terms import recurrent_terms
from understudy.algorithms._supervised import Step
from understudy.data.batches import Batch
from understudy.functional.cloning import cloning_loss
from understudy.functional.pretraining import deterministic_action_error, q_cross_entropy
from understudy.policies.heads import as_targets


class PretrainStep(Step, Protocol):
    """A step that also tells its loss."""

    path: str
    """How it is computed."""

    def losses(self, batch: Batch) -> Tensor:
        """Loss of each row of a prepared batch, shape (batch,), in evaluation mode, without a graph."""

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Train only while this is open."""


class LikelihoodStep:
    """Actor-critics without memory: behavioural cloning's own step."""

    def __init__(self, step: CloningStep) -> None:
        self._step = step
        self.path = str(step.path)
        self.prepare, self.train, self.state = step.prepare, step.train, step.state
        self.set_learning_rate, self.refresh, self.running = step.set_learning_rate, step.refresh, step.running

    def losses(self, batch: Batch) -> Tensor:
        """−log π(a | o) of each row."""
        return -self._step.terms(batch).log_prob


class ModuleStep:
    """Any differentiable loss of a batch, by autograd.

    Args:
        policy: whose mode is switched between training and evaluation.
        module: what learns.
        optimizer: over its parameters.
        loss: of a prepared batch, one value a row.
        prepare: of actions.
        max_grad_norm: clip the gradient's Euclidean norm.
        regularised: what is descended instead of the mean loss, if anything else.
    """

    path = "autograd"

    def __init__(
        self,
        policy: BasePolicy,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Batch], Tensor],
        prepare: Callable[[Tensor], Tensor],
        max_grad_norm: float | None,
        regularised: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        self._policy = policy
        self._module = module
        self._optimizer = optimizer
        self._loss = loss
        self._prepare = prepare
        self._max_grad_norm = max_grad_norm
        self._objective = regularised or self._mean

    def _mean(self, batch: Batch) -> Tensor:
        losses = self._loss(batch)
        return (losses if batch.weights is None else batch.weights.to(losses.dtype) * losses).mean()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While this is open what learns is in training mode."""
        self.refresh()
        yield

    def prepare(self, chunk: Batch) -> Batch:
        """Actions as the loss reads them."""
        return dataclasses.replace(chunk, acts=self._prepare(chunk.acts))

    def train(self, batch: Batch) -> None:
        """One optimiser step."""
        self._optimizer.zero_grad()
        self._objective(batch).backward()
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._max_grad_norm)
        self._optimizer.step()

    def losses(self, batch: Batch) -> Tensor:
        """Loss of each row, in evaluation mode."""
        self._policy.set_training_mode(False)
        try:
            with torch.no_grad():
                return self._loss(batch)
        finally:
            self.refresh()

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on."""
        for group in self._optimizer.param_groups:
            group["lr"] = float(value)

    def state(self) -> list[Tensor]:
        """Parameters, buffers and the optimiser's moments."""
        moments = [v for s in self._optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        return [t.detach() for t in (*self._module.parameters(), *self._module.buffers(), *moments)]

    def refresh(self) -> None:
        """Training mode for what learns; the rest of the policy stays in evaluation mode."""
        self._policy.set_training_mode(False)
        self._module.train(True)


def trained_module(model: BaseAlgorithm, family: Family) -> nn.Module:
    """The part of a model that pretraining changes."""
    policy: Any = model.policy
    if family == "q_values":
        return cast(nn.Module, policy.q_net)
    if family == "quantiles":
        return cast(nn.Module, policy.quantile_net)
    if family == "actor":
        return cast(nn.Module, policy.actor)
    return cast(nn.Module, policy)


def choice_values(model: BaseAlgorithm, family: Family) -> Callable[[Any], Tensor]:
    """Q-values of all choices, shape (batch, n), from observations; quantiles are averaged."""
    module = trained_module(model, family)
    if family == "quantiles":
        return lambda obs: cast(Tensor, module(obs)).mean(1)
    return lambda obs: cast(Tensor, module(obs))


def deterministic_actions(model: BaseAlgorithm) -> Callable[[Any], Tensor]:
    """The actor's action in [−1, 1], shape (batch, act), from observations."""
    actor: Any = trained_module(model, "actor")
    if hasattr(actor, "get_action_dist_params"):  # a stochastic actor
        return lambda obs: cast(Tensor, actor(obs, deterministic=True))
    return lambda obs: cast(Tensor, actor(obs))


def action_bounds(model: BaseAlgorithm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(low, high) of a Box of actions, each of shape (act,)."""
    space = model.action_space
    assert isinstance(space, spaces.Box)
    low, high = (torch.as_tensor(b.reshape(-1), dtype=dtype, device=model.device) for b in (space.low, space.high))
    return low, high


def pretrain_step(
    model: BaseAlgorithm, family: Family, optimizer: torch.optim.Optimizer, settings: LossSettings
) -> PretrainStep:
    """The step of a family, over the parameters the optimiser was made with."""
    policy = model.policy
    module = trained_module(model, family)
    dtype = next(module.parameters()).dtype

    def targets(acts: Tensor) -> Tensor:
        return as_targets(acts, model.action_space, dtype)

    if family == "likelihood":
        return LikelihoodStep(cloning_step(cast(ActorCriticPolicy, policy), optimizer, settings))
    if family == "recurrent":

        def terms_loss(batch: Batch) -> Tensor:
            return -recurrent_terms(policy, batch).log_prob

        def objective(batch: Batch) -> Tensor:
            terms = recurrent_terms(policy, batch)
            return cloning_loss(terms.log_prob, terms.entropy, settings.ent_weight, batch.weights)

        return ModuleStep(policy, module, optimizer, terms_loss, targets, settings.max_grad_norm, objective)
    if family == "actor":
        low, high = action_bounds(model, dtype)
        act = deterministic_actions(model)

        def clipped(acts: Tensor) -> Tensor:
            # What the environment executed; an actor that ends in tanh can answer nothing beyond the bounds.
            return torch.minimum(torch.maximum(targets(acts), low), high)

        def action_loss(batch: Batch) -> Tensor:
            return deterministic_action_error(act(batch.obs), batch.acts, low, high)

        return ModuleStep(policy, module, optimizer, action_loss, clipped, settings.max_grad_norm)

    values = choice_values(model, family)

    def value_loss(batch: Batch) -> Tensor:
        return q_cross_entropy(values(batch.obs), batch.acts)

    return ModuleStep(policy, module, optimizer, value_loss, targets, settings.max_grad_norm)
