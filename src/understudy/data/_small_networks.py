"""Small networks computed by NumPy: below some thousand parameters a forward pass of torch is nearly all dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
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

    It reads the policy's own parameters, so it follows them. The outputs are torch's to within rounding.
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

    def outputs(obs: np.ndarray) -> np.ndarray:
        out = np.asarray(obs, dtype=np.float32)
        for weight, bias, activation in layers:
            out = out @ weight
            out += bias
            if activation is not None:
                activation(out, out=out)
        return out

    return outputs


_Layer = tuple[np.ndarray, np.ndarray, Callable[..., Any] | None]


def _layers(policy: ActorCriticPolicy) -> list[_Layer] | None:
    found: list[_Layer] = []
    for module in (*policy.mlp_extractor.policy_net, policy.action_net):
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return None
        if type(module) is nn.Linear and module.bias is not None and module.weight.dtype is torch.float32:
            found.append((module.weight.detach().numpy().T, module.bias.detach().numpy(), None))
        elif type(module) in _ACTIVATIONS and found and found[-1][2] is None:
            found[-1] = (*found[-1][:2], _ACTIVATIONS[type(module)])
        else:
            return None
    return found if sum(weight.size for weight, _, _ in found) <= _MAX_PARAMETERS else None
