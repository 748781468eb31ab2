"""What PPO asks of an action distribution: terms of the loss, their gradient, samples. The batch is the last axis."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from understudy.functional import policy_gradient as pg


class Head(Protocol):
    """One of the four plain distributions of Stable-Baselines3."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters of its own, besides the network's."""

    def targets(self, acts: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """Actions of a rollout buffer, shape (batch, *act), as ``terms`` reads them, shape (n, batch)."""

    def terms(self, outputs: np.ndarray, targets: np.ndarray) -> Any:
        """``log_prob`` and ``entropy`` of actions, and what ``gradient`` needs."""

    def gradient(
        self, outputs: np.ndarray, terms: Any, targets: np.ndarray, d_log_prob: np.ndarray, d_entropy: float
    ) -> np.ndarray:
        """Gradient by the outputs; that of its own parameters goes to their ``grad``."""

    def noise(self, n_steps: int, n_outputs: int, n_envs: int) -> np.ndarray:
        """What sampling needs for so many steps, one row a step, from torch's generator (which the policy reads)."""

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions, shape (env, *act) or (env,), and their log-likelihood, shape (env,)."""


class _Choices:
    """Categorical and MultiCategorical; the former has one part."""

    parameters: tuple[nn.Parameter, ...] = ()

    def __init__(self, sizes: list[int], *, one: bool) -> None:
        self._sizes = sizes
        self._one = one
        self._parts = [slice(stop - n, stop) for n, stop in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]

    def targets(self, acts: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        return pg.indicators(acts.reshape(len(acts), -1).T.astype(np.int64), self._sizes, dtype)

    def terms(self, outputs: np.ndarray, targets: np.ndarray) -> Any:
        if self._one:
            return pg.categorical(outputs, targets)
        return _Summed(pg.multi_categorical(outputs, targets, self._sizes))

    def gradient(
        self, outputs: np.ndarray, terms: Any, targets: np.ndarray, d_log_prob: np.ndarray, d_entropy: float
    ) -> np.ndarray:
        if self._one:
            return pg.categorical_gradient(terms, targets, d_log_prob, d_entropy)
        return pg.multi_categorical_gradient(terms.parts, targets, d_log_prob, d_entropy)

    def noise(self, n_steps: int, n_outputs: int, n_envs: int) -> np.ndarray:
        # The largest of log p − log E with E ~ Exp(1) is a draw from p (the Gumbel-max trick, −log E being Gumbel).
        return torch.empty(n_steps, n_outputs, n_envs).exponential_().log_().neg_().numpy()

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_envs = outputs.shape[1]
        columns = np.arange(n_envs)
        noisy = outputs + noise
        log_prob: Any = 0.0
        acts = np.empty((len(self._parts), n_envs), np.int64)
        for part, choice in zip(self._parts, acts, strict=True):
            logits = outputs[part]
            noisy[part].argmax(0, out=choice)
            shifted = logits - np.maximum.reduce(logits, 0)
            log_prob = log_prob + (shifted[choice, columns] - np.log(np.add.reduce(np.exp(shifted), 0)))
        return acts[0] if self._one else np.ascontiguousarray(acts.T), log_prob


class _Summed:
    """Terms of several independent choices."""

    def __init__(self, parts: tuple[pg.ChoiceTerms, ...]) -> None:
        self.parts = parts
        self.log_prob = np.add.reduce([part.log_prob for part in parts], 0)
        self.entropy = np.add.reduce([part.entropy for part in parts], 0)


class _Bits:
    parameters: tuple[nn.Parameter, ...] = ()

    def targets(self, acts: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        return np.ascontiguousarray(acts.reshape(len(acts), -1).T, dtype)

    def terms(self, outputs: np.ndarray, targets: np.ndarray) -> Any:
        return pg.bernoulli(outputs, targets)

    def gradient(
        self, outputs: np.ndarray, terms: Any, targets: np.ndarray, d_log_prob: np.ndarray, d_entropy: float
    ) -> np.ndarray:
        return pg.bernoulli_gradient(outputs, terms, targets, d_log_prob, d_entropy)

    def noise(self, n_steps: int, n_outputs: int, n_envs: int) -> np.ndarray:
        return torch.rand(n_steps, n_outputs, n_envs).numpy()

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        softplus = np.logaddexp(outputs.dtype.type(0), outputs)
        acts = (noise < np.exp(outputs - softplus)).astype(outputs.dtype)
        return np.ascontiguousarray(acts.T), np.add.reduce(acts * outputs - softplus, 0)


class _Gaussian:
    def __init__(self, log_std: nn.Parameter) -> None:
        self.parameters = (log_std,)

    def targets(self, acts: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        return np.ascontiguousarray(acts.reshape(len(acts), -1).T, dtype)

    def terms(self, outputs: np.ndarray, targets: np.ndarray) -> Any:
        return pg.diagonal_gaussian(outputs, self.parameters[0].detach().numpy(), targets)

    def gradient(
        self, outputs: np.ndarray, terms: Any, targets: np.ndarray, d_log_prob: np.ndarray, d_entropy: float
    ) -> np.ndarray:
        d_mean, d_log_std = pg.diagonal_gaussian_gradient(terms, d_log_prob, d_entropy)
        grad = self.parameters[0].grad
        assert grad is not None
        grad.numpy()[:] = d_log_std
        return d_mean

    def noise(self, n_steps: int, n_outputs: int, n_envs: int) -> np.ndarray:
        return torch.randn(n_steps, n_outputs, n_envs, dtype=self.parameters[0].dtype).numpy()

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_std = self.parameters[0].detach().numpy()
        acts = outputs + np.exp(log_std)[:, None] * noise
        return np.ascontiguousarray(acts.T), pg.diagonal_gaussian(outputs, log_std, acts).log_prob


def head_of(policy: ActorCriticPolicy) -> Head | None:
    """The head of a policy; None where its distribution is not one of the four."""
    distribution, space = policy.action_dist, policy.action_space
    kind = type(distribution)
    if kind is distributions.CategoricalDistribution and isinstance(space, spaces.Discrete):
        return _Choices([int(space.n)], one=True)
    if isinstance(distribution, distributions.MultiCategoricalDistribution):
        return _Choices([int(n) for n in distribution.action_dims], one=False)
    if kind is distributions.BernoulliDistribution:
        return _Bits()
    if kind is distributions.DiagGaussianDistribution and isinstance(policy.log_std, nn.Parameter):
        return _Gaussian(policy.log_std)
    return None
