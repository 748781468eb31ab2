"""Stable-Baselines3's PPO with the same results in a fraction of the time, for policies that are plain networks.

Schulman et al. (2017), "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347. A minibatch's
loss, gradient, clipping and Adam step are one closed form (`understudy.functional.policy_gradient`), and collecting
takes one lean pass through both networks a step. Everything else, the file format included, is Stable-Baselines3's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from understudy.rl._fused_update import EpochFigures, FusedUpdate, UpdateSettings
from understudy.rl._lean_collecting import collect
from understudy.rl._plain_policies import PlainPolicy, plain_policy

FusedPath = Literal["closed_form", "stable_baselines3"]


class FusedPPO(PPO):
    """PPO, quicker: the arguments, results and files are those of ``stable_baselines3.PPO``.

    ``train`` gives the parameters that PPO's own would, to rounding. Sampled actions come from the same distributions
    by other draws, so a whole run agrees in distribution, not action by action.

    Policies that are not plain fall back to Stable-Baselines3's own code: convolutional networks, networks of one's
    own, state-dependent exploration, activations other than tanh and ReLU, frozen parameters, a device other than the
    processor, rollout buffers with a ``get`` of their own. ``path`` says which way is taken and ``path_reason`` why;
    both follow when the policy is changed. Optimisers other than Adam take their own step on the same gradient.

    Raises:
        TrainingDivergedError: by ``train`` and ``learn``: a parameter became NaN or infinite. Parameters and optimiser
            are then as before that call of ``train``.
    """

    @property
    def path(self) -> FusedPath:
        """How the next ``train`` will take its steps."""
        return "stable_baselines3" if isinstance(self._plain(), str) else "closed_form"

    @property
    def path_reason(self) -> str | None:
        """What stands against the closed form; None where it is used."""
        plain = self._plain()
        return plain if isinstance(plain, str) else None

    def _plain(self) -> PlainPolicy | str:
        buffer = self.rollout_buffer
        samples = (RolloutBuffer, DictRolloutBuffer)
        if (
            not any(type(buffer).get is kind.get and type(buffer)._get_samples is kind._get_samples for kind in samples)
            or "get" in vars(buffer)
            or "_get_samples" in vars(buffer)
        ):
            return f"{type(buffer).__name__} has its own get"
        return "state-dependent exploration is on" if self.use_sde else plain_policy(self.policy)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer, as PPO does; see there."""
        plain = self._plain()
        if isinstance(plain, str):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        return collect(self, plain, env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Learn from the buffer, as PPO does; see there."""
        plain = self._plain()
        if isinstance(plain, str):
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        settings = self._settings()
        update = FusedUpdate(plain, settings)
        epochs: list[EpochFigures] = []
        with update.running():
            for number in range(self.n_epochs):
                # One sample as large as the buffer: the permutation that PPO would cut into minibatches.
                (samples,) = self.rollout_buffer.get()
                epochs.append(update.epoch(samples))
                self._n_updates += 1
                if epochs[-1].stopped:
                    if self.verbose >= 1:
                        kl = epochs[-1].approx_kls[-1]
                        self.logger.info(
                            f"Pass {number} stopped at KL {kl:.4f}, above 1.5 target_kl ({self.target_kl})"
                        )
                    break
        self._record(epochs, settings)

    def _settings(self) -> UpdateSettings:
        progress = self._current_progress_remaining
        assert callable(self.clip_range)
        clip_range_vf = self.clip_range_vf
        assert clip_range_vf is None or callable(clip_range_vf)
        return UpdateSettings(
            batch_size=self.batch_size,
            clip_range=self.clip_range(progress),
            clip_range_vf=None if clip_range_vf is None else clip_range_vf(progress),
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm,
            normalize_advantage=self.normalize_advantage,
            target_kl=self.target_kl,
        )

    def _record(self, epochs: list[EpochFigures], settings: UpdateSettings) -> None:
        """PPO's figures under PPO's names."""
        last = epochs[-1]
        loss = (
            last.policy_losses[-1]
            + settings.ent_coef * last.entropy_losses[-1]
            + settings.vf_coef * last.value_losses[-1]
        )
        buffer = self.rollout_buffer
        record = self.logger.record
        record("train/entropy_loss", np.mean([x for e in epochs for x in e.entropy_losses]))
        record("train/policy_gradient_loss", np.mean([x for e in epochs for x in e.policy_losses]))
        record("train/value_loss", np.mean([x for e in epochs for x in e.value_losses]))
        record("train/approx_kl", np.mean(last.approx_kls))
        record("train/clip_fraction", np.mean([x for e in epochs for x in e.clip_fractions]))
        record("train/loss", loss)
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            record("train/std", self.policy.log_std.detach().exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", settings.clip_range)
        if settings.clip_range_vf is not None:
            record("train/clip_range_vf", settings.clip_range_vf)
