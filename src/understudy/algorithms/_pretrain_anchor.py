"""Reinforcement learning whose actor is tied to the expert and, for a while, to its own clone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.algorithms._pretrain_data import read_views
from understudy.algorithms._pretrain_families import check_model, family_of
from understudy.algorithms._pretrain_steps import action_bounds, deterministic_actions, trained_module
from understudy.algorithms._pretrain_values import q_values_of
from understudy.data.batches import Batch, ResidentBatches
from understudy.data.demonstrations import Demonstrations
from understudy.errors import ConfigError
from understudy.functional.pretraining import anchored_loss, scale_action
from understudy.util.seeding import torch_generator


class Anchor(BaseCallback):
    """Pass to ``model.learn``, after HoldActor: a pretrained actor that climbs its critic and is not swept away.

    Two terms join the actor's loss. Where the expert was, the action stays near the expert's: that lasts, as it is
    right. Where the learner has been (in its replay buffer), the action stays near the one that the clone, as it was
    when learning began, would take: that fades, as the clone is to be surpassed. Both are measured in units of the
    critic's mean ``|Q|``, as in Fujimoto & Gu (2021), "A Minimalist Approach to Offline Reinforcement Learning",
    https://arxiv.org/abs/2106.06860, eq. 5. Begin only when the critic has seen the clone act: with `HoldActor`.

    Differences from the paper:
        * the weight is on the cloning terms and the critic's gradient is left as it is, which to Adam is the same;
        * actions of the learner's own are compared with the clone's, not with those that were taken.

    Nothing of the model is replaced: the terms' gradient is added just before a step of the actor's own optimiser,
    and no more once ``learn`` returns.

    Args:
        demonstrations: as for ``pretrain``.
        n_timesteps: environment steps in which the tie to the clone fades, linearly, from the actor's first update on.
        expert_weight: of the tie to the expert, ≥ 0, in mean ``|Q|`` per squared distance of actions scaled to [−1, 1].
        clone_weight: of the tie to the clone when it begins, likewise.
        batch_size: transitions to each term and update.
        rng: decides which.

    Raises:
        ConfigError: counts below 1 or weights below 0; at the start of learning, for any model but SAC, TD3, DDPG, TQC.
        DataError, SpaceMismatchError: at the start of learning, as ``pretrain``.
    """

    def __init__(
        self,
        demonstrations: Any,
        n_timesteps: int,
        *,
        expert_weight: float = 2.0,
        clone_weight: float = 1.0,
        batch_size: int = 128,
        rng: np.random.Generator | int = 0,
    ) -> None:
        super().__init__()
        if min(n_timesteps, batch_size) < 1 or not (expert_weight >= 0 and clone_weight >= 0):
            raise ConfigError(
                expected="counts ≥ 1 and weights ≥ 0",
                got=f"n_timesteps={n_timesteps}, {batch_size=}, {expert_weight=}, {clone_weight=}",
                do="leave the callback out, or use its defaults",
            )
        self._demonstrations = demonstrations
        self._n_timesteps = n_timesteps
        self._expert_weight = expert_weight
        self._clone_weight = clone_weight
        self._batch_size = batch_size
        self._rng = np.random.default_rng(rng)
        self._hook: RemovableHandle | None = None
        self._began: int | None = None
        self.left = 1.0
        """Of the tie to the clone: 1 when the actor begins to learn, falling to 0."""

    def _on_training_start(self) -> None:
        family = family_of(self.model)
        check_model(self.model, family)
        if family != "actor":
            raise ConfigError(
                expected="a model with an actor and Q-values: SAC, TD3, DDPG or TQC",
                got=type(self.model).__name__,
                do="leave the callback out; StayClose and HoldActor take other models",
            )
        self._remove()
        demos = read_views(self.model, self._demonstrations, in_hand=True, update_normalization=False).seen
        assert isinstance(demos, Demonstrations)
        actor: Any = trained_module(self.model, family)
        self._expert = _ExpertBatches(self.model, demos, self._batch_size, self._rng)
        self._clone = _frozen(actor)
        self._act = deterministic_actions(self.model)
        self._q = q_values_of(self.model)
        self._began, self.left = None, 1.0
        self._hook = actor.optimizer.register_step_pre_hook(lambda *_: self._pull(actor))

    def _pull(self, actor: nn.Module) -> None:
        """Add the terms' gradient to that of the learner's own loss."""
        parameters = [p for p in actor.parameters() if p.requires_grad and p.grad is not None]
        if not parameters:  # held
            return
        if self._began is None:
            self._began = self.model.num_timesteps
        self.left = max(0.0, 1.0 - (self.model.num_timesteps - self._began) / self._n_timesteps)
        loss: Tensor | None = None
        for weight, draw in (
            (self._expert_weight, self._expert.draw),
            (self._clone_weight * self.left, self._visited),
        ):
            if weight > 0:
                obs, acts = draw()
                own = self._act(obs)
                with torch.no_grad():
                    q = self._q(obs, own)
                term = weight * anchored_loss(own, acts, q)
                loss = term if loss is None else loss + term
        if loss is None:
            return
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None and parameter.grad is not None:
                parameter.grad.add_(gradient)

    def _visited(self) -> tuple[Any, Tensor]:
        """Observations from the replay buffer, and what the clone would do there."""
        assert isinstance(self.model, OffPolicyAlgorithm)
        assert self.model.replay_buffer is not None
        obs = _observations(self.model.replay_buffer, self.model.get_vec_normalize_env(), self._batch_size, self._rng)
        with torch.no_grad():
            return obs, self._clone(obs)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class _ExpertBatches:
    """Observations of the demonstrations and their actions in [−1, 1], in random order for ever."""

    def __init__(self, model: Any, demos: Demonstrations, batch_size: int, rng: np.random.Generator) -> None:
        self._source = ResidentBatches(demos, batch_size, device=model.device, generator=torch_generator(rng))
        self._batch_size = batch_size
        self._bounds = action_bounds(model, torch.float32)
        self._waiting: list[Batch] = []

    def draw(self) -> tuple[Any, Tensor]:
        while not self._waiting:
            self._waiting = [b for chunk in self._source.epoch() for b in chunk.split(self._batch_size)]
        batch = self._waiting.pop()
        low, high = self._bounds
        acts = batch.acts.reshape(len(batch.acts), -1).float()
        return batch.obs, scale_action(acts, low, high).clamp(-1.0, 1.0)


def _frozen(actor: nn.Module) -> Callable[[Any], Tensor]:
    """The deterministic action of a copy, in [−1, 1]."""
    clone = copy.deepcopy(actor).requires_grad_(False)
    clone.train(False)
    if hasattr(clone, "get_action_dist_params"):
        return lambda obs: clone(obs, deterministic=True)
    return clone


def _observations(buffer: ReplayBuffer, env: Any, n: int, rng: np.random.Generator) -> Any:
    """Observations drawn from the whole buffer by a generator of ours (its own ``sample`` reads the global one)."""
    rows = rng.integers(buffer.buffer_size if buffer.full else buffer.pos, size=n)
    columns = rng.integers(buffer.n_envs, size=n)
    stored: Any = buffer.observations
    if isinstance(stored, dict):
        found: Any = buffer._normalize_obs({key: value[rows, columns] for key, value in stored.items()}, env)
        return {key: buffer.to_torch(value) for key, value in found.items()}
    return buffer.to_torch(buffer._normalize_obs(stored[rows, columns], env))  # type: ignore[arg-type]
