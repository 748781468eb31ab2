"""A policy that foresees the next k actions: action chunks with temporal ensembling."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from understudy.errors import ConfigError, NonFiniteDataError
from understudy.functional import chunks
from understudy.functional.cloning import HeadTerms
from understudy.policies._chunk_steps import steps_for
from understudy.policies._own_head import OwnHeadPolicy, check_std, keep_affine, raw_std
from understudy.policies.heads import action_offset

_Memory = tuple[Tensor, Tensor]


class ChunkingPolicy(OwnHeadPolicy):
    """An actor-critic policy that answers one observation with the next k actions, Zhao et al. (2023).

    Fewer decisions are made in an episode, so that fewer errors compound; and pauses, or other habits that hang on the
    past, can be learned inside a chunk. Steps of a chunk are independent of each other given the observation: Gaussians
    with a deviation for each step and entry, or choices.

    ``predict`` acts in one of two ways, with the memory that it needs handed on as ``state`` and begun anew where
    ``episode_start`` is True:

    * joining all chunks that foresaw a step, with weights exp(−m i) for the i-th oldest (the default); probabilities
      are joined for choices, means for numbers, and a sampled action has the newest chunk's deviation;
    * open loop: ``open_loop`` actions of a chunk, before looking at an observation again.

    Without a state it acts by the first action of a new chunk, as does all else that Stable-Baselines3 asks
    (``forward``, ``evaluate_actions``, ``get_distribution``): there it is an ordinary policy.

    Args:
        observation_space: any that Stable-Baselines3's policies take.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary. Discrete actions may begin elsewhere than at 0:
            ``predict`` answers in the environment's values.
        lr_schedule: of the policy's own optimiser, for reinforcement learning; None is 1e-3 throughout.
        chunk_size: k ≥ 1.
        open_loop: act so many steps of each chunk, in [1, k]; None joins chunks.
        ensemble_decay: m ≥ 0; the smaller, the faster new observations count.
        min_std: lower bound of the standard deviations of a Box, in units of half its range (1 without bounds).
        kwargs: of ``ActorCriticPolicy``: ``net_arch``, ``activation_fn``, ``log_std_init`` and so on.

    Raises:
        UnsupportedSpaceError: other actions than those.
        ConfigError: a number outside its range.
    """

    center: Tensor
    half_range: Tensor
    raw_std: nn.Parameter

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        *,
        chunk_size: int = 8,
        open_loop: int | None = None,
        ensemble_decay: float = 0.01,
        min_std: float = 0.01,
        **kwargs: Any,
    ) -> None:
        if chunk_size < 1:
            raise ConfigError(expected="`chunk_size` ≥ 1", got=str(chunk_size), do="use 8")
        if open_loop is not None and not 1 <= open_loop <= chunk_size:
            raise ConfigError(
                expected=f"`open_loop` in [1, {chunk_size}], the chunk's size", got=str(open_loop), do="shorten it"
            )
        if not (math.isfinite(ensemble_decay) and ensemble_decay >= 0):
            raise ConfigError(expected="a finite `ensemble_decay` ≥ 0", got=str(ensemble_decay), do="use 0.01")
        check_std(min_std)
        self.chunk_size = int(chunk_size)
        self.open_loop = None if open_loop is None else int(open_loop)
        self.ensemble_decay = float(ensemble_decay)
        self.min_std = float(min_std)
        self._steps = steps_for(action_space)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        if isinstance(action_space, spaces.Box):
            keep_affine(self, action_space)

    @property
    def cloning_head(self) -> _ChunkHead:
        """What the actor's outputs mean."""
        return _ChunkHead(self)

    def as_steps(self, outputs: Tensor) -> Tensor:
        """The actor's outputs step by step, shape (batch, step, output); means in the environment's scale."""
        outputs = outputs.reshape(len(outputs), self.chunk_size, self._steps.n_outputs)
        return self.center + self.half_range * outputs if self._is_box else outputs

    @property
    def std(self) -> Tensor:
        """Standard deviations of a Box's steps, shape (step, act); empty for other actions."""
        if not self._is_box:
            return torch.empty(0)
        return self.half_range * (self.min_std + F.softplus(self.raw_std))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions from observations, batched or single, in the values of the action space.

        Args:
            observation: as Stable-Baselines3's policies take it.
            state: what the last call gave for the same environments; None forgets.
            episode_start: where a new episode begins, shape (env,); nothing is remembered there.
            deterministic: the most likely action instead of a sample.

        Returns:
            Actions, and the memory for the next call.

        Raises:
            ConfigError: a state of other environments, or of another policy.
            NonFiniteDataError: the network's outputs are NaN.
        """
        self.set_training_mode(False)
        tensors, batched = self.obs_to_tensor(observation)
        with torch.no_grad():
            found = self._values(tensors)
            n = len(found)
            memory = self._memory(state, episode_start, found)
            values, step, memory = self._opened(found, memory) if self.open_loop else self._joined(found, memory)
            std = self.std[step] if self._is_box else found.new_empty(0)
            acts = self._steps.choose(values, std, deterministic).cpu().numpy()
        acts = acts.reshape(n, *(self.action_space.shape or ()))
        if isinstance(self.action_space, spaces.Box):
            acts = np.clip(acts, self.action_space.low, self.action_space.high)
        else:
            acts = acts + action_offset(self.action_space)
        kept = tuple(part.cpu().numpy() for part in memory)
        return (acts if batched else acts[0]), kept

    def _values(self, obs: Any) -> Tensor:
        features = self.extract_features(obs, self.pi_features_extractor) if self.share_features_extractor else None
        if features is None:
            features = self.extract_features(obs)[0]
        assert isinstance(features, Tensor)
        values = self._steps.values(self.as_steps(self.action_net(self.mlp_extractor.forward_actor(features))))
        if bool(values.isnan().any()):
            raise NonFiniteDataError(
                expected="finite outputs of the ChunkingPolicy",
                got="NaN",
                do="check its parameters (did training diverge?) and the observations it is given",
            )
        return values

    def _memory(self, state: tuple[np.ndarray, ...] | None, episode_start: np.ndarray | None, found: Tensor) -> _Memory:
        """What is remembered, or a blank: nothing foreseen, and in open loop a plan that is at its end."""
        n, device = len(found), found.device
        counts = (n,) if self.open_loop else (n, self.chunk_size)
        blank = torch.full(counts, self.open_loop or 0, dtype=torch.int64, device=device)
        if state is None:
            return torch.zeros_like(found), blank
        shapes = tuple(np.shape(part) for part in state)
        if shapes != (tuple(found.shape), counts):
            raise ConfigError(
                expected=f"a state of shapes {(tuple(found.shape), counts)} for {n} environments",
                got=f"shapes {shapes}",
                do="hand on the state that `predict` gave for the same environments, or pass None to begin anew",
            )
        total = torch.as_tensor(state[0], dtype=found.dtype, device=device)
        count = torch.as_tensor(state[1], device=device)
        if episode_start is not None:
            begins = torch.as_tensor(np.asarray(episode_start, dtype=bool).reshape(n), device=device)
            total = torch.where(begins[:, None, None], torch.zeros_like(total), total)
            count = torch.where(begins.reshape(n, *[1] * (count.dim() - 1)), blank, count)
        return total, count

    def _joined(self, found: Tensor, memory: _Memory) -> tuple[Tensor, Tensor, _Memory]:
        total, count = chunks.join_chunk(*memory, found, self.ensemble_decay)
        now = chunks.joined(total, count, self.ensemble_decay)
        return now, torch.zeros(len(found), dtype=torch.int64, device=found.device), chunks.advance(total, count)

    def _opened(self, found: Tensor, memory: _Memory) -> tuple[Tensor, Tensor, _Memory]:
        plan, position = memory
        at_end = position >= (self.open_loop or 1)
        plan = torch.where(at_end[:, None, None], found, plan)
        position = torch.where(at_end, torch.zeros_like(position), position)
        return plan[torch.arange(len(plan), device=plan.device), position], position, (plan, position + 1)

    @property
    def _is_box(self) -> bool:
        return isinstance(self.action_space, spaces.Box)

    def _n_outputs(self) -> int:
        return self.chunk_size * self._steps.n_outputs

    def _start_head(self) -> None:
        if self._is_box:
            start = raw_std(math.exp(self.log_std_init), self.min_std)
            self.raw_std = nn.Parameter(torch.full((self.chunk_size, self._steps.n_outputs), start))

    def _options(self) -> dict[str, Any]:
        return {
            "chunk_size": self.chunk_size,
            "open_loop": self.open_loop,
            "ensemble_decay": self.ensemble_decay,
            "min_std": self.min_std,
        }

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        """Of the first step alone."""
        outputs = self.as_steps(self.action_net(latent_pi))[:, 0]
        found: Distribution = self._steps.distribution(self.action_dist, outputs, self.std[:1].squeeze(0))
        return found


def foresees(policy: Any) -> TypeGuard[ChunkingPolicy]:
    """Whether a policy learns from chunks of actions."""
    return isinstance(policy, ChunkingPolicy)


class _ChunkHead:
    def __init__(self, policy: ChunkingPolicy) -> None:
        self._policy = policy
        self.parameters: tuple[nn.Parameter, ...] = (policy.raw_std,) if policy._is_box else ()

    def terms(self, outputs: Tensor, acts: Tensor) -> HeadTerms:
        policy = self._policy
        targets = self._targets(outputs, acts)
        terms, known = policy._steps.terms(policy.as_steps(outputs), targets, policy.std)
        return chunks.chunk_terms(terms.log_prob, terms.entropy, known)

    @torch.no_grad()
    def gradient(self, outputs: Tensor, acts: Tensor, ent_weight: float, scale: Tensor | float) -> Tensor:
        policy = self._policy
        targets = self._targets(outputs, acts)
        by_outputs, by_std = policy._steps.gradient(policy.as_steps(outputs), targets, policy.std, ent_weight, scale)
        if by_std is not None:
            assert policy.raw_std.grad is not None
            policy.raw_std.grad.copy_(by_std * policy.half_range * policy.raw_std.sigmoid())
            by_outputs = by_outputs * policy.half_range
        return by_outputs.flatten(1)

    def _targets(self, outputs: Tensor, acts: Tensor) -> Tensor:
        policy = self._policy
        steps = policy._steps
        if acts.numel() != len(outputs) * policy.chunk_size * steps.n_parts:
            raise ConfigError(
                expected=f"chunks of {policy.chunk_size} actions of {steps.n_parts} entries as targets",
                got=f"shape {tuple(acts.shape)}",
                do="train a ChunkingPolicy with BC or DAgger, which cut the demonstrations into chunks",
            )
        return acts.reshape(len(outputs), policy.chunk_size, steps.n_parts)
