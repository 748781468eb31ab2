"""Which loss trains which model: by the kind of its policy, so that a user's own subclasses are known too."""

from __future__ import annotations

import inspect
import sys
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.base import OffsetFeedForward32Policy
from understudy.policies.heads import action_offset

Family = Literal["likelihood", "recurrent", "q_values", "quantiles", "actor"]
"""What a policy says of the expert's action, and with that the loss.

``likelihood`` and ``recurrent``: its probability. ``q_values`` and ``quantiles``: a value for every choice.
``actor``: one deterministic action.
"""

SUPPORTED = "PPO, A2C, DQN, SAC, TD3, DDPG, or sb3-contrib's TRPO, RecurrentPPO, MaskablePPO, QRDQN, TQC"


def family_of(model: Any) -> Family:
    """The family of a model's policy.

    Raises:
        ConfigError: no Stable-Baselines3 model, one without its networks, or one of another kind.
    """
    if not isinstance(model, BaseAlgorithm):
        raise ConfigError(
            expected=f"a Stable-Baselines3 model: {SUPPORTED}",
            got=type(model).__name__,
            do="pass the model itself, such as PPO('MlpPolicy', env); a bare policy is trained by BC(policy=…)",
        )
    policy = model.policy
    if policy is None:
        raise ConfigError(
            expected="a model whose networks exist", got="_init_setup_model=False", do="call model._setup_model() first"
        )
    known: list[tuple[type, Family]] = [(DQNPolicy, "q_values"), (SACPolicy, "actor"), (TD3Policy, "actor")]
    known = [*_contributed(), *known, (ActorCriticPolicy, "likelihood")]
    for kind, family in known:
        if isinstance(policy, kind):
            return family
    raise ConfigError(
        expected=SUPPORTED,
        got=f"{type(model).__name__} with the policy {type(policy).__name__}",
        do="use one of these algorithms; a policy of another kind can be cloned with one's own network",
    )


def _contributed() -> list[tuple[type, Family]]:
    """A model of sb3-contrib can only exist where its module has been imported."""
    names: list[tuple[str, str, Family]] = [
        ("sb3_contrib.common.recurrent.policies", "RecurrentActorCriticPolicy", "recurrent"),
        ("sb3_contrib.common.maskable.policies", "MaskableActorCriticPolicy", "likelihood"),
        ("sb3_contrib.qrdqn.policies", "QRDQNPolicy", "quantiles"),
        ("sb3_contrib.tqc.policies", "TQCPolicy", "actor"),
    ]
    found = [(getattr(sys.modules.get(module), name, None), family) for module, name, family in names]
    return [(kind, family) for kind, family in found if kind is not None]


def check_model(model: BaseAlgorithm, family: Family) -> None:
    """Raise UnsupportedSpaceError or ConfigError where no training could give a usable model."""
    policy, action_space = model.policy, model.action_space
    if np.any(action_offset(action_space)) and not isinstance(policy, OffsetFeedForward32Policy):
        raise UnsupportedSpaceError(
            expected="actions that start at 0: Stable-Baselines3's models always answer 0 … n-1",
            got=str(action_space),
            do="make the model for the environment in understudy.data.wrappers.StartAtZero, and pass counted_from_zero("
            "demonstrations, action_space) of the same module",
        )
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) > 1:
        raise UnsupportedSpaceError(
            expected="binary actions in one row", got=str(action_space), do="flatten the actions with a wrapper"
        )
    if family == "likelihood" and isinstance(policy, ActorCriticPolicy):
        try:
            inspect.signature(policy.get_distribution).bind(None)
        except TypeError as error:
            raise ConfigError(
                expected="a policy whose action depends on the observation alone",
                got=type(policy).__name__,
                do="use RecurrentPPO for policies with memory",
            ) from error
