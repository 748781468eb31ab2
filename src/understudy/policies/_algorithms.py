"""The algorithms whose models can be loaded, by the names that `load_policy` takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from understudy.errors import ConfigError, MissingExtraError
from understudy.policies._stable_zip import StableZip, algorithms_of
from understudy.util.registry import load_attr

STABLE_BASELINES_CLASSES: Mapping[str, str] = MappingProxyType(
    {name: f"stable_baselines3:{name.upper()}" for name in ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")}
)
"""Where each algorithm's class is imported from, by the name that `load_policy` takes."""

CONTRIB_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "trpo": "sb3_contrib:TRPO",
        "qrdqn": "sb3_contrib:QRDQN",
        "tqc": "sb3_contrib:TQC",
        "crossq": "sb3_contrib:CrossQ",
        "ars": "sb3_contrib:ARS",
        "ppo_lstm": "sb3_contrib:RecurrentPPO",
        "ppo_mask": "sb3_contrib:MaskablePPO",
    }
)
"""The same for sb3-contrib, under the names that RL Baselines3 Zoo gives them."""

_ON_POLICY = "stable_baselines3.common.policies:ActorCriticPolicy"
_TD3 = "stable_baselines3.td3.policies:TD3Policy"
_POLICY_BASES: Mapping[str, str] = {
    "ppo": _ON_POLICY,
    "a2c": _ON_POLICY,
    "sac": "stable_baselines3.sac.policies:SACPolicy",
    "td3": _TD3,
    "ddpg": _TD3,
    "dqn": "stable_baselines3.dqn.policies:DQNPolicy",
    "trpo": _ON_POLICY,
    "qrdqn": "sb3_contrib.qrdqn.policies:QRDQNPolicy",
    "tqc": "sb3_contrib.tqc.policies:TQCPolicy",
    "crossq": "sb3_contrib.crossq.policies:CrossQPolicy",
    "ars": "sb3_contrib.ars.policies:ARSPolicy",
    "ppo_lstm": "sb3_contrib.common.recurrent.policies:RecurrentActorCriticPolicy",
    "ppo_mask": "sb3_contrib.common.maskable.policies:MaskableActorCriticPolicy",
}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of that name.

    Raises:
        MissingExtraError: it is one of sb3-contrib's, which is not installed.
    """
    found: type[BaseAlgorithm] = _contrib({**STABLE_BASELINES_CLASSES, **CONTRIB_CLASSES}[name])
    return found


def policy_base(name: str) -> type[Any]:
    """What every policy of that algorithm is an instance of."""
    found: type[Any] = _contrib(_POLICY_BASES[name])
    return found


def check_algorithm(model: StableZip, name: str) -> None:
    """Refuse a model of another algorithm, by the names of its tensors.

    Raises:
        ConfigError: it names the algorithms that have such tensors.
    """
    found = algorithms_of(model.policy)
    if found and name not in found:
        kinds = " or ".join(sorted(found))
        raise ConfigError(
            f"a model of {name.upper()} in {model.path}",
            f"the tensors of {kinds}, such as {next(iter(model.policy))!r}",
            f"load it as {' or '.join(repr(each) for each in sorted(found))}",
        )


def _contrib(place: str) -> Any:
    try:
        return load_attr(place)
    except ModuleNotFoundError as err:
        raise MissingExtraError("sb3-contrib", "contrib") from err
