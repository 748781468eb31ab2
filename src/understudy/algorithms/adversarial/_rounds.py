"""One training of an adversarial trainer: rounds between the rollouts of one ``learn``, in one piece or in legs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from understudy.algorithms._legs import LegRun
from understudy.algorithms.checkpoints import Checkpoints
from understudy.rl.learner_state import begin_anew
from understudy.rl.rounds import BetweenRollouts
from understudy.util.checkpoint import using

if TYPE_CHECKING:
    from understudy.algorithms.adversarial.common import AdversarialTrainer


@dataclasses.dataclass(frozen=True)
class RoundsWishes:
    """What the caller of ``train`` asked for; see there."""

    n_rounds: int
    callback: Callable[[int], None] | None
    learner_callback: MaybeCallback
    progress_bar: bool
    checkpoints: Checkpoints | None


class Rounds:
    """Rounds about to be made.

    Args:
        trainer: who learns.
        wishes: what the caller asked for.
    """

    def __init__(self, trainer: AdversarialTrainer, wishes: RoundsWishes) -> None:
        self._trainer = trainer
        self._wishes = wishes
        self._total = wishes.n_rounds * trainer.gen_train_timesteps
        self._number = 0
        """Rounds made, those of an interrupted process included."""
        self._run: LegRun | None = None
        self._leg_began = 0
        self._leg_rng = trainer.rng
        self._learner_logs = contextlib.ExitStack()

    def make(self) -> None:
        """Make rounds until there are as many as wished for."""
        if self._wishes.checkpoints is None:
            self._learn(self._total, reset_num_timesteps=True)
            return
        trainer = self._trainer
        device = trainer.gen_algo.device
        with LegRun(self._wishes.checkpoints, trainer, self._identity(), on_leg=self._seeded, device=device) as run:
            self._run = run
            trainer.gen_algo.num_timesteps = 0  # before `begin`, which knows better where it resumes
            saved = run.begin()
            if saved is None:
                run.save_start({"round": 0})
            else:
                with using(run.folder):
                    self._number = saved["round"]
            done = trainer.gen_algo.num_timesteps
            if done < self._total and self._number < self._wishes.n_rounds:
                self._begin_leg()
                self._leg_began = done
                self._learn(self._total - done, reset_num_timesteps=False)
                reached = trainer.gen_algo.num_timesteps
                if reached < self._total and self._number < self._wishes.n_rounds:  # a callback ended it
                    if run.stop_asked:
                        run.stop({"round": self._number})
                    run.next_leg(reached, {"round": self._number})  # not the end of the run: resumed, it goes on
                else:
                    run.finish(reached, {"round": self._number})

    def _learn(self, timesteps: int, *, reset_num_timesteps: bool) -> None:
        trainer = self._trainer
        with self._learner_logs, trainer._payment.open():
            self._log_the_learner()
            trainer.gen_algo.learn(
                timesteps,
                callback=all_of(
                    self._wishes.learner_callback, BetweenRollouts(self._between, at_end=trainer._payment.keep_steps)
                ),
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=self._wishes.progress_bar,
            )

    def _log_the_learner(self) -> None:
        self._learner_logs.enter_context(self._trainer.logger.accumulate_means("gen"))

    def _between(self, timesteps: int) -> None:
        """After a rollout that was learned from: the discriminator's turn, once a round."""
        trainer = self._trainer
        if timesteps >= (self._number + 1) * trainer.gen_train_timesteps and self._number < self._wishes.n_rounds:
            self._learner_logs.close()
            self._teach_the_discriminator()
            if self._wishes.callback is not None:
                self._wishes.callback(self._number)
            self._number += 1
            trainer.n_rounds += 1
            self._log_the_learner()
        self._maybe_end_the_leg(timesteps)

    def _teach_the_discriminator(self) -> None:
        trainer, logger = self._trainer, self._trainer.logger
        with logger.accumulate_means("disc"):
            for _ in range(trainer.n_disc_updates_per_round):
                for name, value in trainer.train_disc().items():
                    logger.record(name, value)
                    if trainer.summaries is not None:
                        trainer.summaries.add_scalar(f"disc/{name}", value, trainer.n_disc_updates)
                logger.dump(trainer.n_disc_updates)
        logger.dump(trainer.n_rounds)

    def _maybe_end_the_leg(self, timesteps: int) -> None:
        run = self._run
        if run is None:
            return
        if run.stop_asked:
            run.stop({"round": self._number})
        if timesteps - self._leg_began >= run.every and timesteps < self._total:
            self._leg_began = timesteps
            run.next_leg(timesteps, {"round": self._number})
            self._begin_leg()

    def _seeded(self, rng: np.random.Generator) -> None:
        # Nothing else yet: what a reset does to normalisation must come after the state was saved, in each leg.
        self._leg_rng = rng

    def _begin_leg(self) -> None:
        trainer = self._trainer
        begin_anew(trainer.gen_algo, self._leg_rng)
        trainer._payment.begin_anew()
        if getattr(trainer.gen_algo, "use_sde", False) and self._leg_began:  # drawn before the generators were seeded
            trainer.gen_algo.policy.reset_noise(trainer.venv.num_envs)  # type: ignore[operator]

    def _identity(self) -> dict[str, Any]:
        """What a run in legs is; a resumed one must be the same."""
        trainer = self._trainer
        learner = trainer.gen_algo
        networks = f"{learner.policy}{trainer._reward_net}"
        return {
            "n_rounds": self._wishes.n_rounds,
            "gen_train_timesteps": trainer.gen_train_timesteps,
            "n_disc_updates_per_round": trainer.n_disc_updates_per_round,
            "demo_batch_size": trainer.demo_batch_size,
            "demo_minibatch_size": trainer.demo_minibatch_size,
            "capacity": trainer._payment.rows.capacity,
            "demonstrations": trainer._demonstrations_fingerprint,
            "ground_truth": trainer.debug_use_ground_truth,
            "disc_optimizer": type(trainer.disc_optimizer).__name__,
            "learner": type(learner).__name__,
            "networks": hashlib.sha256(networks.encode()).hexdigest()[:16],
            "n_envs": trainer.venv.num_envs,
            "device": learner.device.type,
            "threads": torch.get_num_threads(),
            **trainer._own_identity(),
        }


def all_of(own: MaybeCallback, ours: BaseCallback) -> BaseCallback:
    """The caller's callbacks, then this one."""
    if own is None:
        return ours
    if isinstance(own, list):
        return CallbackList([*own, ours])
    return CallbackList([own if isinstance(own, BaseCallback) else ConvertCallback(own), ours])
