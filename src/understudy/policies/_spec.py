"""A Stable-Baselines3 policy as plain values: its class by a short name, its spaces, its constructor's arguments.

A file never names a place to import from. Names stand in the tables of ``_names``, or the caller supplies them.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule

from understudy.errors import ConfigError, CorruptFileError, MissingExtraError
from understudy.policies._names import PART_CLASSES, POLICY_CLASSES
from understudy.util.registry import load_attr
from understudy.util.space_json import space_from_json, space_to_json
from understudy.util.versions import library_versions

FORMAT_VERSION = 1
FALLBACK_LEARNING_RATE = 3e-4


def policy_to_spec(policy: BasePolicy) -> dict[str, Any]:
    """Everything but the tensors, ready for JSON."""
    parameters = {
        key: _encode(key, value)
        for key, value in _constructor_parameters(policy).items()
        if key not in {"observation_space", "action_space", "lr_schedule"} and value is not None
    }
    return {
        "format": FORMAT_VERSION,
        "policy": _encode_class(type(policy), POLICY_CLASSES),
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "parameters": parameters,
        "learning_rate": learning_rate(policy),
        "versions": library_versions(),
    }


def policy_from_spec(spec: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> BasePolicy:
    """A policy with fresh weights, on the CPU.

    Raises:
        ConfigError: the spec names something the caller has to supply.
        CorruptFileError: a spec that no policy can be built from, or of a later format.
    """
    if spec.get("format") != FORMAT_VERSION:
        raise CorruptFileError(
            f"a policy file of format {FORMAT_VERSION}",
            f"format {_shown(spec.get('format'))}, written with {_shown(spec.get('versions'))}",
            "install the version of understudy that wrote the file, or a later one",
        )
    custom = custom_objects or {}
    cls = _decode(spec["policy"], POLICY_CLASSES, custom)
    arguments = {key: _decode(value, PART_CLASSES, custom) for key, value in spec["parameters"].items()}
    arguments["observation_space"] = space_from_json(spec["observation_space"])
    arguments["action_space"] = space_from_json(spec["action_space"])
    if accepts(cls, "lr_schedule"):
        arguments["lr_schedule"] = ConstantSchedule(float(spec["learning_rate"]))
    try:
        policy: BasePolicy = cls(**arguments)
    except (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, RuntimeError) as err:
        raise CorruptFileError(
            f"arguments that {cls.__name__} can be built with",
            f"{type(err).__name__}: {' '.join(str(err).split())[:300]}",
            f"check the versions that wrote the file: {_shown(spec.get('versions'))}",
        ) from err
    return policy


def _shown(value: Any) -> str:
    """Part of a file in a message: on one line, and not all of it."""
    return " ".join(str(value).split())[:200]


def learning_rate(policy: BasePolicy) -> float:
    """The optimiser's learning rate, or 3e-4 where there is none or it is no rate to go on learning with.

    Cloning alone never reads a policy's own learning rate, so it may hold a placeholder as large as 3e38.
    """
    for module in (policy, getattr(policy, "actor", None), getattr(policy, "q_net", None)):
        optimizer = getattr(module, "optimizer", None)
        if isinstance(optimizer, torch.optim.Optimizer):
            rate = float(optimizer.param_groups[0]["lr"])
            return rate if math.isfinite(rate) and 0 < rate <= 100 else FALLBACK_LEARNING_RATE
    return FALLBACK_LEARNING_RATE


def _constructor_parameters(policy: BasePolicy) -> dict[str, Any]:
    parameters = dict(policy._get_constructor_parameters())
    if hasattr(policy, "share_features_extractor"):  # SB3 forgets it
        parameters["share_features_extractor"] = policy.share_features_extractor
    lstm: Any = getattr(policy, "lstm_actor", None)
    if isinstance(lstm, torch.nn.LSTM):  # and sb3-contrib these
        parameters |= {"lstm_hidden_size": lstm.hidden_size, "n_lstm_layers": lstm.num_layers}
        parameters |= {name: getattr(policy, name) for name in ("shared_lstm", "enable_critic_lstm", "lstm_kwargs")}
    if accepts(type(policy), "with_bias"):
        network: Any = policy.action_net
        layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        parameters["with_bias"] = all(layer.bias is not None for layer in layers)
        parameters["squash_output"] = policy.squash_output
    return {key: value for key, value in parameters.items() if accepts(type(policy), key)}


def accepts(cls: type, parameter: str) -> bool:
    """Whether a constructor takes that keyword, itself or by passing ``**kwargs`` on to its parent's."""
    for base in cls.__mro__:
        if "__init__" in vars(base):
            signature = inspect.signature(vars(base)["__init__"]).parameters
            if parameter in signature:
                return True
            if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.values()):
                return False
    return False


def _encode(key: str, value: Any) -> Any:
    """Plain values as they are; everything else as an object with one key that says what it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [_encode(key, each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(key, each) for each in value]}
    if isinstance(value, dict) and all(isinstance(each, str) for each in value):
        return {"dict": {name: _encode(name, each) for name, each in value.items()}}
    if isinstance(value, gym.Space):
        return {"space": space_to_json(value)}
    if isinstance(value, type):
        return _encode_class(value, PART_CLASSES)
    return {"custom": key}


def _encode_class(cls: type, table: Mapping[str, str]) -> dict[str, str]:
    for name, place in table.items():
        module, _, attribute = place.partition(":")
        # A class that exists has its module loaded already: nothing is imported to look.
        if attribute == cls.__name__ and getattr(sys.modules.get(module), attribute, None) is cls:
            return {"class": name}
    return {"custom": cls.__name__}


def _decode(value: Any, table: Mapping[str, str], custom: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(each, table, custom) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise CorruptFileError("an object with one key", _shown(value), "write the file again")
    [(kind, content)] = value.items()
    if kind in {"class", "custom"}:
        return _look_up(kind, content, table, custom)
    if kind == "dict" and isinstance(content, dict):
        return {name: _decode(each, table, custom) for name, each in content.items()}
    if kind == "tuple" and isinstance(content, list):
        return tuple(_decode(each, table, custom) for each in content)
    if kind == "float" and content in {"inf", "-inf", "nan"}:
        return float(content)
    if kind == "space" and isinstance(content, dict):
        return space_from_json(content)
    raise CorruptFileError("a value of a kind this library writes", _shown(value), "write the file again")


def _look_up(kind: str, name: str, table: Mapping[str, str], custom: Mapping[str, Any]) -> Any:
    if name in custom:
        return custom[name]
    if kind == "class" and name in table:
        try:
            return load_attr(table[name])
        except ModuleNotFoundError as err:
            raise MissingExtraError("sb3-contrib", "contrib") from err
    raise ConfigError(
        "a policy file made of classes this library knows",
        f"the name {name!r}, which it does not know",
        f"pass custom_objects={{{name!r}: ...}} with what that name stood for when the policy was saved",
    )
