"""What behavioural cloning refuses before it starts, each with a way out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.data.rollout import check_policy_spaces
from understudy.data.sequences import check_sequences
from understudy.errors import ConfigError, SpaceMismatchError, UnsupportedSpaceError
from understudy.policies.base import OffsetFeedForward32Policy
from understudy.policies.chunks import ChunkingPolicy
from understudy.policies.heads import action_offset
from understudy.policies.recurrent import is_recurrent


def check_options(
    batch_size: int,
    minibatch_size: int | None,
    optimizer_kwargs: Mapping[str, Any] | None,
    ent_weight: float,
    l2_weight: float,
    max_grad_norm: float | None,
) -> None:
    if batch_size < 1:
        raise ConfigError(expected="`batch_size` ≥ 1", got=str(batch_size), do="pass a positive batch size")
    if minibatch_size is not None and (minibatch_size < 1 or batch_size % minibatch_size):
        raise ConfigError(
            expected=f"`minibatch_size` to divide batch_size={batch_size}",
            got=str(minibatch_size),
            do="choose a divisor, or leave it out",
        )
    if optimizer_kwargs and optimizer_kwargs.get("weight_decay"):
        raise ConfigError(
            expected="no `weight_decay` in optimizer_kwargs",
            got=f"weight_decay={optimizer_kwargs['weight_decay']}",
            do="use l2_weight, which is logged as part of the loss",
        )
    for name, value in (("ent_weight", ent_weight), ("l2_weight", l2_weight), ("max_grad_norm", max_grad_norm)):
        if value is not None and (not np.isfinite(value) or value < 0):
            raise ConfigError(expected=f"a finite `{name}` ≥ 0", got=str(value), do=f"pass {name}=0 to turn it off")


def check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    flat = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, flat):
        raise UnsupportedSpaceError(
            expected="an action space of Box, Discrete, MultiDiscrete or MultiBinary",
            got=str(action_space),
            do="flatten nested actions with a wrapper",
        )
    if len(action_space.shape or ()) > 1 and not isinstance(action_space, spaces.Box):
        raise UnsupportedSpaceError(
            expected="discrete actions in one row",
            got=f"{action_space} of shape {action_space.shape}",
            do="flatten the actions with a wrapper",
        )
    parts = (
        list(observation_space.spaces.values()) if isinstance(observation_space, spaces.Dict) else [observation_space]
    )
    if not all(isinstance(part, flat) for part in parts):
        raise UnsupportedSpaceError(
            expected="an observation space of Box, Discrete, MultiDiscrete, MultiBinary, or one Dict of these",
            got=str(observation_space),
            do="flatten nested observations with gymnasium.wrappers.FlattenObservation",
        )
    if any(np.any(action_offset(part)) for part in parts):
        raise UnsupportedSpaceError(
            expected="discrete observations that start at 0 (Stable-Baselines3 encodes them so)",
            got=str(observation_space),
            do="shift the observations with gymnasium.wrappers.TransformObservation",
        )


def check_policy(policy: ActorCriticPolicy, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    if not isinstance(policy, ActorCriticPolicy):
        raise ConfigError(
            expected="an ActorCriticPolicy (of PPO, A2C, …)",
            got=type(policy).__name__,
            do="pass PPO(...).policy, or leave policy out for a small network",
        )
    try:
        inspect.signature(policy.get_distribution).bind(None)
    except TypeError as error:
        if not is_recurrent(policy):
            raise ConfigError(
                expected="a policy whose action depends on the observation alone, or one of sb3-contrib's RecurrentPPO",
                got=f"{type(policy).__name__}, which also needs a recurrent state",
                do="stack frames (VecFrameStack) and pass a policy without memory, or pass RecurrentPPO(...).policy",
            ) from error
    check_policy_spaces(policy, observation_space, action_space)
    adds_start = isinstance(policy, (OffsetFeedForward32Policy, ChunkingPolicy))
    if np.any(action_offset(action_space)) and not adds_start:
        raise UnsupportedSpaceError(
            expected="actions that start at 0 for a Stable-Baselines3 policy, which always answers 0 … n-1",
            got=str(action_space),
            do="leave `policy` out (OffsetFeedForward32Policy adds the start), or shift the environment's actions",
        )


def check_memory(policy: ActorCriticPolicy, sequence_length: int | None, burn_in: int) -> None:
    """Options of sequences are for policies with memory."""
    check_sequences(sequence_length, burn_in)
    if (sequence_length is not None or burn_in) and not is_recurrent(policy):
        raise ConfigError(
            expected="a policy with memory for `sequence_length` and `burn_in`",
            got=f"a {type(policy).__name__}, which sees single steps",
            do="pass policy=RecurrentPPO('MlpLstmPolicy', venv).policy, or leave them out",
        )


def check_optimizer(optimizer_cls: type[torch.optim.Optimizer]) -> None:
    closure = inspect.signature(optimizer_cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            expected="an optimiser that takes one gradient a step",
            got=f"{optimizer_cls.__name__}, which evaluates the loss again and again",
            do="use torch.optim.Adam or another first-order optimiser",
        )


def check_covered(policy: ActorCriticPolicy, optimizer: torch.optim.Optimizer) -> None:
    """A layer put into the policy after the optimiser was made would never learn, and nobody would notice."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    strangers = [name for name, p in policy.named_parameters() if p.requires_grad and id(p) not in known]
    if strangers:
        raise ConfigError(
            expected="the parameters that the policy had when BC was made",
            got=f"new ones that the optimiser does not know: {', '.join(strangers[:4])}",
            do="change the policy's layers first, then make BC with policy=…",
        )


def check_batch_norm(policy: ActorCriticPolicy, n_rows: int, batch_size: int) -> None:
    """Batch statistics of one row do not exist; torch would say so only when that batch comes."""
    if n_rows % batch_size == 1 % batch_size and any(isinstance(m, torch.nn.BatchNorm1d) for m in policy.modules()):
        raise ConfigError(
            expected="batches of two rows or more for a policy with BatchNorm1d",
            got=f"a last batch of one row ({n_rows} rows by {batch_size})",
            do=f"pass another batch size (or minibatch size) than {batch_size}",
        )


def check_venv(venv: VecEnv, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    for kind, mine, theirs in (
        ("observation space", observation_space, venv.observation_space),
        ("action space", action_space, venv.action_space),
    ):
        if mine != theirs:
            raise SpaceMismatchError(
                expected=f"`log_rollouts_venv` with the {kind} {mine}",
                got=str(theirs),
                do="use environments like those the demonstrations come from",
            )


def fused_where_possible(cls: type[torch.optim.Optimizer], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch's fused Adam is the same update in one call a tensor list; chosen unless the user chose otherwise."""
    if cls in (torch.optim.Adam, torch.optim.AdamW) and not {"fused", "foreach", "capturable", "differentiable"} & set(
        kwargs
    ):
        kwargs["fused"] = True
    return kwargs
