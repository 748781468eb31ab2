"""Reinforcement learning that goes on cloning for a while."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from understudy.algorithms._bc_checks import fused_where_possible
from understudy.algorithms._cloning_steps import LossSettings
from understudy.algorithms._pretrain_data import read_views
from understudy.algorithms._pretrain_families import check_model, family_of
from understudy.algorithms._pretrain_steps import PretrainStep, pretrain_step, trained_module
from understudy.data.batches import Batch, ResidentBatches
from understudy.data.demonstrations import Demonstrations
from understudy.errors import ConfigError
from understudy.util.seeding import torch_generator


class StayClose(BaseCallback):
    """Pass to ``model.learn``: between the learner's updates, a few more steps of cloning.

    An off-policy actor climbs its critic before the critic knows more than the demonstrations, and is soon somewhere
    else. Steps of cloning in between hold it to the expert's actions where the expert was, and leave it free
    elsewhere. The idea is that of the cloning loss in Nair et al. (2018), "Overcoming Exploration in Reinforcement
    Learning with Demonstrations", https://arxiv.org/abs/1709.10089, as steps of their own instead of a term.

    Args:
        demonstrations: as for ``pretrain``.
        n_timesteps: environment steps for which it lasts, summed over copies.
        n_steps: cloning steps before each rollout of the learner; their number falls to 0 over ``n_timesteps``.
        learning_rate: of their own Adam.
        batch_size: transitions to a step.
        rng: decides the order of the transitions.

    Raises:
        ConfigError: counts below 1; at the start of learning, a model with memory.
        DataError, SpaceMismatchError: at the start of learning, as ``pretrain``.
    """

    def __init__(
        self,
        demonstrations: Any,
        n_timesteps: int,
        *,
        n_steps: int = 4,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        rng: np.random.Generator | int = 0,
    ) -> None:
        super().__init__()
        if min(n_timesteps, n_steps, batch_size) < 1 or not learning_rate > 0:
            raise ConfigError(
                expected="counts ≥ 1 and a learning rate > 0",
                got=f"n_timesteps={n_timesteps}, n_steps={n_steps}, {batch_size=}, {learning_rate=}",
                do="leave the callback out, or use its defaults",
            )
        self._demonstrations = demonstrations
        self._n_timesteps = n_timesteps
        self._n_steps = n_steps
        self._learning_rate = learning_rate
        self._batch_size = batch_size
        self._rng = np.random.default_rng(rng)
        self.optimizer: torch.optim.Optimizer | None = None
        """Of the cloning steps; made when learning begins."""
        self._began = 0
        self._owed = 0.0
        self._step: PretrainStep | None = None
        self._batches: Iterator[Batch] = iter(())

    def _on_training_start(self) -> None:
        family = family_of(self.model)
        check_model(self.model, family)
        if family == "recurrent":
            raise ConfigError(
                expected="a model without memory", got=type(self.model).__name__, do="leave the callback out"
            )
        demos = read_views(self.model, self._demonstrations, in_hand=True, update_normalization=False).seen
        assert isinstance(demos, Demonstrations)
        kwargs = fused_where_possible(torch.optim.Adam, {"lr": self._learning_rate})
        self.optimizer = torch.optim.Adam(trained_module(self.model, family).parameters(), **kwargs)
        self._step = pretrain_step(self.model, family, self.optimizer, LossSettings(0.0, 0.0))
        self._batches = self._forever(demos)
        self._began = self.model.num_timesteps
        self._owed = 0.0

    def _forever(self, demos: Demonstrations) -> Iterator[Batch]:
        source = ResidentBatches(
            demos, self._batch_size, device=self.model.device, generator=torch_generator(self._rng)
        )
        assert self._step is not None
        while True:
            for chunk in source.epoch():
                yield from self._step.prepare(chunk).split(self._batch_size)

    def _on_rollout_start(self) -> None:
        left = 1.0 - (self.model.num_timesteps - self._began) / self._n_timesteps
        assert self._step is not None
        module = self._step
        if left <= 0 or not self._learns():
            return
        self._owed += self._n_steps * left
        with module.running():
            while self._owed >= 1.0:
                module.train(next(self._batches))
                self._owed -= 1.0
        self.model.policy.set_training_mode(False)  # a rollout begins

    def _learns(self) -> bool:
        """Not while `HoldActor` holds the actor, nor before the learner's first update."""
        parameters = trained_module(self.model, family_of(self.model)).parameters()
        return self.model.num_timesteps > self._began and any(p.requires_grad for p in parameters)

    def _on_step(self) -> bool:
        return True
