"""A reward network as plain values: its class by a short name and the constructor's arguments, nested like the network.

A file never names a place to import from. Names stand in the tables here, or the caller supplies them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from understudy.errors import CorruptFileError
from understudy.rewards.reward_nets import RewardNet
from understudy.rewards.reward_nets._arguments import KnowsItsArguments
from understudy.util.value_json import LAYER_CLASSES, class_to_json, look_up, shown, value_from_json, value_to_json

_NETS = "understudy.rewards.reward_nets"

NET_CLASSES: Mapping[str, str] = {
    **{
        name: f"{_NETS}:{name}"
        for name in (
            *("AddSTDRewardWrapper", "BasicPotentialCNN", "BasicPotentialMLP", "BasicRewardNet"),
            *("BasicShapedRewardNet", "CnnRewardNet", "NormalizedRewardNet", "PredictProcessedWrapper"),
            *("RewardEnsemble", "ShapedRewardNet"),
        )
    },
    "RewardNetFromDiscriminatorLogit": "understudy.algorithms.adversarial.gail:RewardNetFromDiscriminatorLogit",
}
"""Networks by the short name that our files use."""

_PART_CLASSES: Mapping[str, str] = {
    **LAYER_CLASSES,
    "NatureCNN": "stable_baselines3.common.torch_layers:NatureCNN",
}


def net_to_spec(net: KnowsItsArguments) -> dict[str, Any]:
    """Everything but the tensors, ready for JSON."""
    args, kwargs = net.constructor_arguments()
    names = _positional_names(type(net))
    return {
        "class": class_to_json(type(net), NET_CLASSES),
        "args": [_to_json(names[i] if i < len(names) else f"args[{i}]", value) for i, value in enumerate(args)],
        "kwargs": {key: _to_json(key, value) for key, value in kwargs.items()},
    }


def net_from_spec(spec: Any, custom: Mapping[str, Any]) -> RewardNet:
    """A network with fresh weights.

    Raises:
        ConfigError: the spec names something that the caller has to supply.
        CorruptFileError: a spec that no reward network can be built from.
    """
    net = _build(spec, custom)
    if not isinstance(net, RewardNet):
        raise CorruptFileError("a reward network", f"a {type(net).__name__}", "save the network itself")
    return net


def _to_json(key: str, value: Any) -> Any:
    return value_to_json(key, value, _PART_CLASSES, _describe)


def _describe(value: Any) -> dict[str, Any] | None:
    return {"net": net_to_spec(value)} if isinstance(value, KnowsItsArguments) else None


def _build(spec: Any, custom: Mapping[str, Any]) -> Any:
    [(kind, name)] = spec["class"].items()
    if kind not in ("class", "custom"):
        raise CorruptFileError("a class of network", shown(spec["class"]), "write the file again")
    cls = look_up(kind, name, NET_CLASSES, custom)
    rebuild = {"net": lambda inner: _build(inner, custom)}
    args = [value_from_json(value, _PART_CLASSES, custom, rebuild) for value in spec["args"]]
    kwargs = {key: value_from_json(value, _PART_CLASSES, custom, rebuild) for key, value in spec["kwargs"].items()}
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, ArithmeticError) as err:
        raise CorruptFileError(
            f"arguments that {shown(getattr(cls, '__name__', cls))} can be built with",
            f"{type(err).__name__}: {shown(err)}",
            "check that the class is the one that the network was saved with",
        ) from err


def _positional_names(cls: type) -> list[str]:
    """Of the constructor's parameters, in order, for naming what only the caller can supply."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in kinds]
