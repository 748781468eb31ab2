"""What a policy's networks read: features of a whole epoch at once where that is the same as batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from torch import Tensor

from understudy.policies.base import NormalizeFeaturesExtractor
from understudy.util.networks import RunningNorm

_STATIC = (FlattenExtractor, CombinedExtractor)

Pair = tuple[np.ndarray, np.ndarray]
"""Features of the actor and of the critic, each of shape (batch, features)."""


def epoch_features(
    policy: ActorCriticPolicy, obs: Any, bounds: Sequence[tuple[int, int]], dtype: torch.dtype
) -> Iterator[Pair]:
    """Features of one minibatch after the other.

    Statistics of extractors in training mode move as if each were asked for each minibatch in turn; they stand where
    they belong whenever a minibatch is handed out, so the caller may stop at any.

    Args:
        policy: in training mode.
        obs: of all minibatches, one after the other; as in the rollout buffer.
        bounds: where each minibatch starts and stops.
        dtype: of the features.
    """
    streams = [_stream(policy, extractor, obs, bounds, dtype) for extractor in _distinct(policy)]
    for features in zip(*streams, strict=True):
        yield features[0], features[-1]


def batch_features(policy: ActorCriticPolicy, obs: Any, dtype: torch.dtype) -> Pair:
    """Features of one batch, in whichever mode the policy is."""
    ready = _ready(policy, obs, dtype)
    with torch.no_grad():
        pair = [extractor(ready).numpy() for extractor in _distinct(policy)]
    return pair[0], pair[-1]


def shares_features(policy: ActorCriticPolicy) -> bool:
    """Whether actor and critic always read the same features; flattening twice gives the same thing twice."""
    pi, vf = policy.pi_features_extractor, policy.vf_features_extractor
    return bool(pi is vf or (type(pi) is type(vf) and type(pi) in _STATIC))


def _distinct(policy: ActorCriticPolicy) -> tuple[BaseFeaturesExtractor, ...]:
    both = policy.pi_features_extractor, policy.vf_features_extractor
    return both[:1] if shares_features(policy) else both


def _stream(
    policy: ActorCriticPolicy,
    extractor: BaseFeaturesExtractor,
    obs: Any,
    bounds: Sequence[tuple[int, int]],
    dtype: torch.dtype,
) -> Iterator[np.ndarray]:
    normalizes = type(extractor) is NormalizeFeaturesExtractor and type(extractor.normalize) is RunningNorm
    for block in _blocks(bounds, max(_width(obs), extractor.features_dim)):
        start, stop = block[0][0], block[-1][1]
        ready = _ready(policy, _cut(obs, start, stop), dtype)
        local = [(a - start, b - start) for a, b in block]
        if type(extractor) in _STATIC:
            whole = extractor(ready).numpy()
            yield from (whole[a:b] for a, b in local)
        elif normalizes:
            assert isinstance(extractor, NormalizeFeaturesExtractor)
            assert isinstance(extractor.normalize, RunningNorm)
            yield from _normalised(extractor.normalize, extractor.flatten(ready).numpy(), local)
        else:
            for a, b in local:
                with torch.no_grad():
                    yield extractor(_cut(ready, a, b)).numpy()


def _normalised(norm: RunningNorm, x: np.ndarray, bounds: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """As ``norm`` in training mode of each minibatch in turn; its statistics are written as each is handed out."""
    if not norm.training:
        yield from (
            ((x[a:b] - norm.running_mean.numpy()) / _scale(norm.running_var.numpy(), norm.eps)) for a, b in bounds
        )
        return
    mean, var, count = norm.running_mean.numpy(), norm.running_var.numpy(), norm.count.numpy()
    means, variances = _moments(x, bounds)
    for k, (a, b) in enumerate(bounds):
        rows = b - a
        share = rows / (int(count) + rows)
        delta = means[k] - mean
        mean += share * delta
        var += share * (variances[k] - var) + share * (1 - share) * (delta * delta)
        count += rows
        yield (x[a:b] - mean) / _scale(var, norm.eps)


def _scale(var: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(np.sqrt(var + eps))


def _moments(x: np.ndarray, bounds: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (biased) variance of each minibatch, shape (minibatch, features); all but the last are as long."""
    rows = bounds[0][1] - bounds[0][0]
    whole = [b - a == rows for a, b in bounds]
    stacked = x[: rows * sum(whole)].reshape(sum(whole), rows, -1)
    means, variances = stacked.mean(1), stacked.var(1)
    if not all(whole):
        last = x[bounds[-1][0] :]
        means, variances = np.vstack([means, last.mean(0)]), np.vstack([variances, last.var(0)])
    return means, variances


_BLOCK = 1 << 22
"""Numbers that are turned into features at once."""


def _blocks(bounds: Sequence[tuple[int, int]], width: int) -> Iterator[Sequence[tuple[int, int]]]:
    rows = max(1, bounds[0][1] - bounds[0][0])
    n = max(1, _BLOCK // max(1, rows * width))
    for i in range(0, len(bounds), n):
        yield bounds[i : i + n]


def _width(obs: Any) -> int:
    """Numbers in one observation."""
    return sum(x[0].numel() for x in (obs.values() if isinstance(obs, dict) else [obs]))


def _cut(obs: Any, start: int, stop: int) -> Any:
    return {key: x[start:stop] for key, x in obs.items()} if isinstance(obs, dict) else obs[start:stop]


def _ready(policy: ActorCriticPolicy, obs: Any, dtype: torch.dtype) -> Any:
    """Preprocessed as Stable-Baselines3 does, in the policy's own precision."""
    ready = preprocess_obs(obs, policy.observation_space, normalize_images=policy.normalize_images)
    if isinstance(ready, dict):
        return {key: x.to(dtype) for key, x in ready.items()}
    assert isinstance(ready, Tensor)
    return ready.to(dtype)
