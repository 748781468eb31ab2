"""Small networks computed by NumPy: below some thousand parameters a forward pass of torch is nearly all dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

_MAX_PARAMETERS = 1 << 14

Outputs = Callable[[np.ndarray], np.ndarray]
"""Observations, shape (env, features) → the actor's outputs, shape (env, outputs), float32."""


def _relu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0.0, out=out))


_ACTIVATIONS: dict[type[nn.Module], Callable[..., Any]] = {nn.Tanh: np.tanh, nn.ReLU: _relu}


def actor_outputs(policy: ActorCriticPolicy) -> Outputs | None:
    """The actor of an unmodified small policy over vectors, on the processor; None for any other.

    It reads the policy's own parameters, so it follows them, also where others take their place; torch computes those
    that it cannot read. The outputs are torch's to within rounding.
    """
    space = policy.observation_space
    plain = (
        isinstance(space, spaces.Box)
        and len(space.shape) == 1
        and type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and policy.device.type == "cpu"
    )
    layers = _layers(policy) if plain else None
    if layers is None:
        return None

    def by_torch(obs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            given = torch.as_tensor(obs, device=policy.device)
            features = BasePolicy.extract_features(policy, given, policy.pi_features_extractor)
            return np.asarray(policy.action_net(policy.mlp_extractor.forward_actor(features)).cpu().numpy())

    read = _holders(policy)
    places = _places(read)

    def outputs(obs: np.ndarray) -> np.ndarray:
        nonlocal layers, read, places
        if policy._modules["action_net"] is not read[-1] or _places(read) != places:
            layers, read = _layers(policy), _holders(policy)
            places = _places(read)
        if layers is None:
            return by_torch(obs)
        out = np.asarray(obs, dtype=np.float32)
        for weight, bias, activation in layers:
            out = out @ weight
            out += bias
            if activation is not None:
                activation(out, out=out)
        return out

    return outputs


def _holders(policy: ActorCriticPolicy) -> list[nn.Module]:
    """The modules that hold the actor's parameters, the last layer's at the end."""
    return [module for module in (*policy.mlp_extractor.policy_net, policy.action_net) if module._parameters]


def _places(modules: list[nn.Module]) -> list[int | None]:
    """Where parameters lie in memory: ``policy.to(dtype)`` and the like put others in their place."""
    return [None if p is None else p.data_ptr() for module in modules for p in module._parameters.values()]


_Layer = tuple[np.ndarray, np.ndarray, Callable[..., Any] | None]


def _readable(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.device.type == "cpu"


def _layers(policy: ActorCriticPolicy) -> list[_Layer] | None:
    found: list[_Layer] = []
    for module in (*policy.mlp_extractor.policy_net, policy.action_net):
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return None
        if type(module) is nn.Linear and module.bias is not None and _readable(module.weight):
            found.append((module.weight.detach().numpy().T, module.bias.detach().numpy(), None))
        elif type(module) in _ACTIVATIONS and found and found[-1][2] is None:
            found[-1] = (*found[-1][:2], _ACTIVATIONS[type(module)])
        else:
            return None
    return found if sum(weight.size for weight, _, _ in found) <= _MAX_PARAMETERS else None
