"""Which policies the closed form covers: plain actor-critic networks, as Stable-Baselines3 puts them together."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from understudy.rl._ppo_heads import Head, head_of
from understudy.rl._twin_networks import Dense, dense_layers

_OWN = (
    "forward",
    "evaluate_actions",
    "extract_features",
    "predict_values",
    "obs_to_tensor",
    "_get_action_dist_from_latent",
)
"""What a policy must have from Stable-Baselines3 unchanged."""


@dataclasses.dataclass(frozen=True)
class PlainPolicy:
    """The parts of a policy that the closed form covers."""

    policy: ActorCriticPolicy
    actor: list[Dense]
    critic: list[Dense]
    head: Head


def plain_policy(policy: Any) -> PlainPolicy | str:
    """The policy's parts, or what stands against the closed form."""
    if not isinstance(policy, ActorCriticPolicy):
        return f"the policy is {type(policy).__name__}, not an ActorCriticPolicy"
    changed = [
        name
        for name in _OWN
        if getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) or name in vars(policy)
    ]
    if changed:
        return f"{type(policy).__name__} has its own {changed[0]}"
    head = head_of(policy)
    if policy.use_sde or head is None:
        return f"actions come from {type(policy.action_dist).__name__}"
    if policy.device.type != "cpu":
        return f"the policy is on {policy.device}"
    if type(policy.mlp_extractor) is not MlpExtractor:
        return f"the networks are in {type(policy.mlp_extractor).__name__}"
    watched = next((m for m in policy.modules() if _is_watched(m)), None)
    if watched is not None:
        return f"{type(watched).__name__} has hooks or a forward of its own"
    nets = policy.mlp_extractor
    stacks = (nets.policy_net, policy.action_net), (nets.value_net, policy.value_net)
    actor, critic = (
        dense_layers(list(hidden), last) if type(hidden) is nn.Sequential else None for hidden, last in stacks
    )
    if actor is None or critic is None:
        return "the networks are not linear layers with tanh or ReLU between them"
    covered = [p for dense in (*actor, *critic) for p in dense.linear.parameters()] + list(head.parameters)
    return _against_parameters(policy, covered) or PlainPolicy(policy, actor, critic, head)


def _against_parameters(policy: ActorCriticPolicy, covered: list[nn.Parameter]) -> str | None:
    """What about the parameters stands against the closed form, or None."""
    if {id(p) for p in covered} != {id(p) for p in policy.parameters()} or len(set(covered)) != len(covered):
        return "there are parameters outside the two networks, or shared between layers"
    if not all(p.requires_grad for p in covered):
        return "some parameters are frozen"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in covered):
        return "a parameter has hooks"
    if {p.dtype for p in covered} not in ({torch.float32}, {torch.float64}):
        return "parameters are neither all float32 nor all float64"
    if {id(p) for group in policy.optimizer.param_groups for p in group["params"]} != {id(p) for p in covered}:
        return "the optimiser is not over all parameters"  # gradients of the others would add up from step to step
    return None


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
