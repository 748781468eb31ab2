"""DAgger with an expert that can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._dagger_demos import with_plain_infos, write_demo
from understudy.algorithms._dagger_expert import RoundJournal
from understudy.algorithms._dagger_relabel import relabel
from understudy.algorithms._dagger_trainer import DAggerTrainer
from understudy.algorithms._dagger_training import DAggerResult, DAggerTraining, RoundWishes
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.acting import AnyPolicy, check_policy_spaces
from understudy.data.types import AnyPath, Trajectory
from understudy.errors import ConfigError


class SimpleDAggerTrainer(DAggerTrainer):
    """DAgger with an expert that can be asked: a policy, a model, a function of the observations, or a person.

    Args:
        venv: the environments.
        scratch_dir: where everything lies, see `DAggerTrainer`.
        expert_policy: see ``understudy.data.rollout.AnyPolicy``; policies answer with their most likely action. For a
            person at the console see ``understudy.policies.interactive``.
        rng: as for `DAggerTrainer`.
        expert_trajs: demonstrations to begin with; they go into round 0, and do not count as steps.
        dagger_trainer_kwargs: for `DAggerTrainer`.

    Raises:
        SpaceMismatchError: the expert was made for other spaces.
        ConfigError: something that cannot act.
    """

    def __init__(
        self,
        *,
        venv: VecEnv,
        scratch_dir: AnyPath,
        expert_policy: AnyPolicy,
        rng: np.random.Generator | int | None = None,
        expert_trajs: Sequence[Trajectory] | None = None,
        **dagger_trainer_kwargs: Any,
    ) -> None:
        super().__init__(venv=venv, scratch_dir=scratch_dir, rng=rng, **dagger_trainer_kwargs)
        if isinstance(expert_policy, (BaseAlgorithm, BasePolicy)):
            check_policy_spaces(expert_policy, venv.observation_space, venv.action_space)
        elif expert_policy is None or not (callable(expert_policy) or hasattr(expert_policy, "policy")):
            raise ConfigError(
                expected="`expert_policy`: a policy, a model, or a function of the observations",
                got=repr(expert_policy)[:80],
                do="pass for example expert_policy=load_policy('bundled', venv)",
            )
        self.expert_policy = expert_policy
        self.open_round: tuple[int, int] | None = None
        """Number and seed of a round that began and did not end."""
        if expert_trajs is not None:
            self._add_initial(expert_trajs)

    def _add_initial(self, trajectories: Sequence[Trajectory]) -> None:
        """Again the same files, where an earlier process was killed while it wrote them; none after that."""
        folder = self.demos.folder_of(0)
        if self.round_num == 0 and RoundJournal(folder).header() is None:
            for number, trajectory in enumerate(trajectories):
                write_demo(folder / f"demos_initial_{number:03d}.npz", with_plain_infos(trajectory), self.demos.wrote)

    def train(
        self,
        total_timesteps: int,
        *,
        rollout_round_min_episodes: int = 3,
        rollout_round_min_timesteps: int = 500,
        bc_train_kwargs: Mapping[str, Any] | None = None,
        progress_bar: bool = False,
        checkpoints: Checkpoints | None = None,
    ) -> DAggerResult:
        """Rounds of asking the expert and learning from all its answers, until the steps are used up.

        Answers of functions and persons are on the disk before they are used. If the expert raises, or the process
        ends, call ``train`` again over the same scratch folder: the round begins again with the same seeds, takes
        the answers that were given from the disk, and asks on from there.

        Args:
            total_timesteps: in the environments, over all rounds of this call; only whole rounds are made, so this is
                a lower bound. Steps counted are the steps stored.
            rollout_round_min_episodes: a round ends when so many episodes have ended,
            rollout_round_min_timesteps: and so many steps are in them, at least one batch.
            bc_train_kwargs: see ``extend_and_update``; without a progress bar unless it asks for one.
            progress_bar: show one over the steps.
            checkpoints: save after each round, which is a leg whatever ``every`` says, so that a killed run resumes to
                the same bytes.

        Returns:
            What was done.

        Raises:
            ConfigError: budgets below 1, or the scratch folder has a round of an earlier run.
            CheckpointError: a checkpoint could not be written or read; earlier ones are untouched.
            RunLockedError: another process trains with these checkpoints.
            TrainingInterrupted: with ``checkpoints``, Ctrl-C or SIGTERM; what was learned is saved.
        """
        wishes = RoundWishes(
            total_timesteps=total_timesteps,
            min_episodes=rollout_round_min_episodes,
            min_timesteps=max(rollout_round_min_timesteps, self.batch_size),
            bc_train_kwargs={"progress_bar": False, **(bc_train_kwargs or {})},
            progress_bar=progress_bar,
            checkpoints=checkpoints,
        )
        return DAggerTraining(self, wishes).run()

    def relabel(self, trajectories: Iterable[Trajectory]) -> list[Path]:
        """Ask the expert about recorded trajectories, and put them with its actions into this round's folder.

        Answers of functions and persons are journalled in that folder, as in ``train``.

        Returns:
            Their files; ``extend_and_update`` learns from them.
        """
        folder = self.demos.folder_of(self.round_num)
        return self.add_trajectories(
            relabel(trajectories, self.expert_policy, self.venv, journal_folder=folder / "relabelled")
        )
