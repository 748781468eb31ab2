"""How the learner is paid, and what is kept of its steps for the discriminator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from understudy.algorithms.adversarial._samples import FIELDS, LearnerRows, Rows
from understudy.errors import ConfigError
from understudy.rl.learned_rewards import EpisodeSums, paid_after_rollouts, paid_when_sampled
from understudy.rl.recording import RecordedSteps, StepRecorder

if TYPE_CHECKING:
    from understudy.algorithms.adversarial.common import AdversarialTrainer


class Payment:
    """The learner's environments, recording, and its wages.

    Args:
        trainer: whose ``reward_train`` pays its ``gen_algo``.
        venv: the environments.
        capacity: rows kept for the discriminator.
        check_lengths: called with the lengths of episodes that ended.
    """

    def __init__(
        self, trainer: AdversarialTrainer, venv: VecEnv, capacity: int, check_lengths: Callable[[set[int]], None]
    ) -> None:
        self.recorder = StepRecorder(venv)
        self.rows = LearnerRows(capacity)
        self._trainer = trainer
        self._check = check_lengths
        self._sums = EpisodeSums(venv.num_envs)
        self._lengths = np.zeros(venv.num_envs, dtype=np.int64)
        self._n_resets = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While this is open, the learner is paid by ``reward_train``, or by the environment where that is wished.

        Raises:
            ConfigError: a learner of another kind.
        """
        learner = self._trainer.gen_algo
        self.keep_steps()  # left by an error: what follows may begin with a reset
        if self._trainer.debug_use_ground_truth:
            yield
        elif isinstance(learner, OnPolicyAlgorithm):
            with paid_after_rollouts(learner, self.recorder, self._pay):
                yield
        elif isinstance(learner, OffPolicyAlgorithm):
            with paid_when_sampled(learner, self._pay_sampled):
                yield
        else:
            raise ConfigError(
                expected="a learner with a rollout buffer or a replay buffer",
                got=type(learner).__name__,
                do="use PPO, A2C, SAC, TD3, DQN or one of sb3-contrib's of their kind",
            )
        self.keep_steps()  # of a rollout that a callback broke off

    def keep_steps(self) -> None:
        """Take steps that no payment took: of off-policy learners, and where the environment pays."""
        if len(self.recorder):
            self._pay(self.recorder.take())

    def _pay(self, steps: RecordedSteps) -> np.ndarray:
        """Rewards of a rollout, shape (time, env), in one call."""
        if self.recorder.n_resets != self._n_resets:  # by the learner, before the first of these steps
            self._n_resets = self.recorder.n_resets
            self._forget_running_episodes()
        self._check_ended(steps)
        flat = steps.flat()
        rows: Rows = {name: flat[name] for name in FIELDS}
        self.rows.store(rows, self._trainer.rng)
        paid = self._trainer.reward_train.predict_processed(*(rows[name] for name in FIELDS))
        earned = np.asarray(paid, dtype=np.float32).reshape(steps.acts.shape[:2])
        self._sums.add(earned, steps.terminated | steps.truncated)
        if self._sums.mean is not None:
            self._trainer.logger.record("rollout/ep_rew_wrapped_mean", self._sums.mean)
        return earned

    def _pay_sampled(self, obs: Any, acts: Tensor, next_obs: Any, terminated: Tensor) -> Tensor:
        # Normalisers of the output moved when the steps were collected, once each.
        paid = self._trainer.reward_train.predict_processed(obs, acts, next_obs, terminated, update_stats=False)
        return torch.as_tensor(paid, device=acts.device)

    def _check_ended(self, steps: RecordedSteps) -> None:
        found: set[int] = set()
        for dones in steps.terminated | steps.truncated:
            self._lengths += 1
            if dones.any():
                found |= set(self._lengths[dones].tolist())
                self._lengths[dones] = 0
        if found:
            self._check(found)

    def begin_anew(self) -> None:
        """The environments were reset: steps not yet taken and running episodes are forgotten."""
        self.recorder.forget()
        self._n_resets = self.recorder.n_resets
        self._forget_running_episodes()

    def _forget_running_episodes(self) -> None:
        self._sums.begin_anew()
        self._lengths[:] = 0

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"rows": self.rows.state(), "sums": self._sums.state(), "lengths": self._lengths.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.rows.restore(state["rows"])
        self._sums.restore(state["sums"])
        self._lengths = state["lengths"].copy()
