"""What a model's critic says, which of its parameters say it, and the losses that teach it demonstrations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from understudy.algorithms._pretrain_families import Family
from understudy.algorithms._pretrain_steps import action_bounds, choice_values, deterministic_actions, trained_module
from understudy.algorithms._sequence_terms import recurrent_terms, recurrent_values
from understudy.data.batches import Batch, ResidentBatches
from understudy.data.demonstrations import Demonstrations
from understudy.data.sequences import SequenceBatches
from understudy.errors import ConfigError
from understudy.functional.pretraining import bowl_target, margin_of_choice, scale_action
from understudy.policies.heads import as_targets, log_likelihood

CriticLoss = Callable[[Batch, Tensor, Tensor], Tensor]
"""Of a batch, the expert's actions (batch, act) and their discounted returns (batch,)."""


def output_layers(model: BaseAlgorithm, family: Family) -> list[nn.Linear]:
    """The last layer of each critic."""
    if family in ("likelihood", "recurrent"):
        last = getattr(model.policy, "value_net", None)
        return [last] if isinstance(last, nn.Linear) else []
    module = critic_of(model) if family == "actor" else trained_module(model, family)
    heads = [m for m in module.modules() if isinstance(m, nn.Sequential) and len(m)]
    return [head[-1] for head in heads if isinstance(head[-1], nn.Linear)]


def shift(layers: list[nn.Linear], by: float) -> None:
    """Add to all outputs: in steps of the learning rate's size a value would take long to a hundred."""
    with torch.no_grad():
        for layer in layers:
            if layer.bias is not None and layer.bias.requires_grad:
                layer.bias.add_(by)


def values_of(model: BaseAlgorithm, family: Family) -> Callable[[Batch], Tensor]:
    """The value of an observation, shape (batch,)."""
    policy: Any = model.policy
    if family == "recurrent":
        return lambda batch: recurrent_values(policy, batch)
    if family == "likelihood":
        return lambda batch: cast(Tensor, policy.predict_values(batch.obs).flatten())
    if family == "actor":
        act, q = deterministic_actions(model), q_values_of(model)
        return lambda batch: q(batch.obs, act(batch.obs)).amin(1)
    choices = choice_values(model, family)
    return lambda batch: choices(batch.obs).amax(1)


def critic_of(model: BaseAlgorithm) -> nn.Module:
    """The critics of an off-policy model with an actor, as one module."""
    return cast(nn.Module, model.policy.critic)


def q_values_of(model: BaseAlgorithm) -> Callable[[Any, Tensor], Tensor]:
    """Every critic's value (every quantile's, where there are such), shape (batch, critic)."""
    critic = critic_of(model)

    def q(obs: Any, scaled: Tensor) -> Tensor:
        out = critic(obs, scaled)
        return torch.cat(out, 1) if isinstance(out, tuple) else cast(Tensor, out.flatten(1))

    return q


def value_loss(value: Callable[[Batch], Tensor]) -> CriticLoss:
    """Squared error of the value."""
    return lambda batch, acts, returns: (value(batch) - returns).square().mean()


def margin_loss(model: BaseAlgorithm, family: Family, margin: float, spread: float) -> CriticLoss:
    """Squared error of the expert's choice, whose lead over the others shall be ``margin``; in units of ``spread``."""
    net = trained_module(model, family)

    def loss(batch: Batch, acts: Tensor, returns: Tensor) -> Tensor:
        chosen = as_targets(acts[:, 0], model.action_space, torch.float32)
        out = net(batch.obs)
        each = out if family == "quantiles" else out[:, None]  # (batch, quantile, choice)
        rows = torch.arange(len(chosen), device=chosen.device)
        error: Tensor = ((each[rows, :, chosen] - returns[:, None]) / spread).square().mean()
        return error + margin_of_choice(each.mean(1) / spread, chosen, margin).mean()

    return loss


def bowl_loss(model: BaseAlgorithm, margin: float, n_actions: int, spread: float, noise: torch.Generator) -> CriticLoss:
    """Squared error of the expert's action and of ``n_actions`` others, valued by a bowl; in units of ``spread``."""
    q = q_values_of(model)
    low, high = action_bounds(model, torch.float32)

    def loss(batch: Batch, acts: Tensor, returns: Tensor) -> Tensor:
        expert = scale_action(acts.float(), low, high).clamp(-1.0, 1.0)
        n = len(expert)
        # The expert's own, near ones, and ones from anywhere: where an actor may look while it learns.
        draws = (torch.rand((n_actions, *expert.shape), generator=noise) * 2 - 1).to(expert.device)
        far = torch.arange(n_actions, device=expert.device)[:, None, None] % 2 == 0
        others = torch.where(far, draws, (expert + 0.3 * draws).clamp(-1.0, 1.0))
        tried = torch.cat([expert[None], others]).flatten(0, 1)
        targets = bowl_target(returns.repeat(n_actions + 1), tried, expert.repeat(n_actions + 1, 1), margin * spread)
        obs = _repeated(batch.obs, n_actions + 1)
        errors = ((q(obs, tried) - targets[:, None]) / spread).square().mean(1)
        return errors[:n].mean() + errors[n:].mean()

    return loss


def _repeated(obs: Any, times: int) -> Any:
    if isinstance(obs, dict):
        return {key: _repeated(value, times) for key, value in obs.items()}
    return obs.repeat(times, *[1] * (obs.ndim - 1))


def critic_only(model: BaseAlgorithm, family: Family, demos: Demonstrations) -> list[nn.Parameter]:
    """Parameters that the value depends on and the action does not, found by asking autograd.

    Raises:
        ConfigError: there are none.
    """
    policy: Any = model.policy
    row = np.arange(1)
    one = Demonstrations(demos.obs_at(row), None, demos.acts_at(row), np.array([0, 1]))
    parameters = [p for p in policy.parameters() if p.requires_grad]
    if family == "recurrent":
        source = SequenceBatches(one, 1, sequence_length=None, device=model.device, generator=None)
        batch: Batch = next(source.epoch())
    else:
        batch = next(ResidentBatches(one, 1, device=model.device, generator=None).epoch())
    batch = dataclasses.replace(batch, acts=as_targets(batch.acts, model.action_space, next(policy.parameters()).dtype))
    terms = recurrent_terms(policy, batch) if family == "recurrent" else log_likelihood(policy, batch.obs, batch.acts)
    of_action = _reached(terms.log_prob.sum(), parameters)
    of_value = _reached(values_of(model, family)(batch).sum(), parameters)
    chosen = [p for p, acting, valuing in zip(parameters, of_action, of_value, strict=True) if valuing and not acting]
    if not chosen:
        raise ConfigError(
            expected="a critic with parameters of its own",
            got=f"{type(policy).__name__}, whose value and action share all of theirs",
            do="give the critic layers of its own (net_arch=dict(pi=[…], vf=[…])), or leave critic_warmup out",
        )
    return chosen


def _reached(output: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
    """Which parameters an output depends on."""
    gradients: Any = torch.autograd.grad(output, parameters, allow_unused=True)
    return [gradient is not None for gradient in gradients]
