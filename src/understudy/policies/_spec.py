"""A Stable-Baselines3 policy as plain values: its class by a short name, its spaces, its constructor's arguments.

A file never names a place to import from. Names stand in the tables of ``_names``, or the caller supplies them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule

from understudy.errors import CorruptFileError
from understudy.policies._names import PART_CLASSES, POLICY_CLASSES
from understudy.util.space_json import space_from_json, space_to_json
from understudy.util.value_json import class_to_json, shown, value_from_json, value_to_json
from understudy.util.versions import library_versions

FORMAT_VERSION = 1
FALLBACK_LEARNING_RATE = 3e-4


def policy_to_spec(policy: BasePolicy) -> dict[str, Any]:
    """Everything but the tensors, ready for JSON."""
    parameters = {
        key: value_to_json(key, value, PART_CLASSES)
        for key, value in _constructor_parameters(policy).items()
        if key not in {"observation_space", "action_space", "lr_schedule"} and value is not None
    }
    return {
        "format": FORMAT_VERSION,
        "policy": class_to_json(type(policy), POLICY_CLASSES),
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
            f"format {shown(spec.get('format'))}, written with {shown(spec.get('versions'))}",
            "install the version of understudy that wrote the file, or a later one",
        )
    custom = custom_objects or {}
    cls = value_from_json(spec["policy"], POLICY_CLASSES, custom)
    arguments = {key: value_from_json(value, PART_CLASSES, custom) for key, value in spec["parameters"].items()}
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
            f"check the versions that wrote the file: {shown(spec.get('versions'))}",
        ) from err
    return policy


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
