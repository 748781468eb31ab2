"""DAgger step by step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms import base
from understudy.algorithms._dagger_beta import (
    DEFAULT_RAMPDOWN_ROUNDS,
    AnyBetaSchedule,
    LinearBetaSchedule,
    beta_of,
    schedule_state,
)
from understudy.algorithms._dagger_collector import Gate, InteractiveTrajectoryCollector, generator_or_drawn
from understudy.algorithms._dagger_demos import DemoStore, demo_files, demo_name, with_plain_infos, write_demo
from understudy.algorithms._dagger_learner import Learner
from understudy.algorithms._dagger_state import LATEST, POLICY_FILE
from understudy.algorithms.bc import BC
from understudy.data.acting import check_policy_spaces
from understudy.data.fingerprint import fingerprint
from understudy.data.types import AnyPath, Trajectory
from understudy.errors import CallOrderError, ConfigError, DataError
from understudy.policies.recurrent import is_recurrent
from understudy.util.checkpoint import Writer
from understudy.util.logger import HierarchicalLogger
from understudy.util.paths import parse_path
from understudy.util.seeding import generator_from, generator_state

_log = logging.getLogger(__name__)


class NeedsDemosException(CallOrderError):  # noqa: N818 - the name that users catch
    """The round has no demonstrations yet: collect some with ``create_trajectory_collector``."""


class DAggerTrainer(base.BaseImitationAlgorithm):
    """DAgger step by step, for loops of one's own; with an expert in hand use `SimpleDAggerTrainer`.

    A round: make a collector, step it with the expert's actions until there are enough episodes, then call
    ``extend_and_update``. Everything lies in the scratch folder::

        checkpoint-000/ … checkpoint-latest/          of save_trainer
        policy-000.safetensors … policy-latest.safetensors
        demos/round-000/demos_round_000_000.npz …     one demonstration each, no pickles
        demos/round-000/answers.jsonl                 how the round began, and what an expert answered in it

    Args:
        venv: the environments.
        scratch_dir: made if missing.
        rng: decides everything random here: a generator, a seed, or None for a seed that is drawn and logged.
        beta_schedule: β by round, see `BetaSchedule`; None is ``LinearBetaSchedule(15)``.
        bc_trainer: fits the policy. It logs where this trainer does.
        custom_logger: where to log; None is the logger of ``bc_trainer``.
        gate: who drives, see `InteractiveTrajectoryCollector`; β is not used then.

    Raises:
        SpaceMismatchError: ``bc_trainer`` was made for other spaces.
    """

    DEFAULT_N_EPOCHS: int = 4
    """Passes over all demonstrations in ``extend_and_update`` unless it is told otherwise."""

    def __init__(
        self,
        *,
        venv: VecEnv,
        scratch_dir: AnyPath,
        rng: np.random.Generator | int | None = None,
        beta_schedule: AnyBetaSchedule | None = None,
        bc_trainer: BC,
        custom_logger: HierarchicalLogger | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(custom_logger=custom_logger)
        check_policy_spaces(bc_trainer.policy, venv.observation_space, venv.action_space)
        self.rng = generator_or_drawn(rng, type(self).__name__)
        self.venv = venv
        self.scratch_dir = parse_path(scratch_dir)
        self.scratch_dir.mkdir(parents=True, exist_ok=True)
        self.beta_schedule = LinearBetaSchedule(DEFAULT_RAMPDOWN_ROUNDS) if beta_schedule is None else beta_schedule
        self.bc_trainer = bc_trainer
        self.gate = gate
        self.round_num = 0
        """The round under way, counted from 0."""
        self.demos = DemoStore(self.scratch_dir / "demos")
        if custom_logger is not None:
            bc_trainer.logger = custom_logger

    @property
    def logger(self) -> HierarchicalLogger:
        """Where this trainer and the one inside it log."""
        return self.bc_trainer.logger

    @logger.setter
    def logger(self, value: HierarchicalLogger) -> None:
        self.bc_trainer.logger = value

    @property
    def policy(self) -> BasePolicy:
        """The policy that learns."""
        return self.bc_trainer.policy

    @property
    def batch_size(self) -> int:
        """Samples to an optimiser step."""
        return self.bc_trainer.batch_size

    def create_trajectory_collector(self) -> InteractiveTrajectoryCollector:
        """Environments for this round: with its β, and saving to its folder."""
        return self._collector(Learner(self.policy.predict), self.rng)

    def _collector(self, acts: Any, rng: np.random.Generator, **options: Any) -> InteractiveTrajectoryCollector:
        return InteractiveTrajectoryCollector(
            self.venv,
            acts,
            beta_of(self.beta_schedule, self.round_num),
            self.demos.folder_of(self.round_num),
            rng,
            gate=self.gate,
            on_saved=self.demos.wrote,
            **options,
        )

    def extend_and_update(self, bc_train_kwargs: Mapping[str, Any] | None = None) -> int:
        """Take in the round's demonstrations, fit the policy to all rounds', and begin the next round.

        Args:
            bc_train_kwargs: for ``BC.train``. Unless given, returns are logged in ``venv``, and training lasts
                ``DEFAULT_N_EPOCHS`` epochs.

        Returns:
            The number of the new round.

        Raises:
            NeedsDemosException: there are none for this round, or none with a step of the expert's in any round.
            DataError: demonstrations of another environment.
        """
        for earlier in range(self.demos.n_closed, self.round_num):
            self.demos.take_round(earlier)
        folder = self.demos.folder_of(self.round_num)
        if not self.demos.take_round(self.round_num) or not len(self.demos):
            raise NeedsDemosException(
                expected=f"demonstrations of round {self.round_num} in {folder}",
                got="none" if not demo_files(folder) else "none with a step in which the expert was asked",
                do="step create_trajectory_collector() with the expert's actions until episodes end",
            )
        # A memory is made of every observation, also of those that nobody was asked about.
        self.bc_trainer.set_demonstrations(self.demos.demonstrations(whole=is_recurrent(self.policy)))
        options = dict(bc_train_kwargs or {})
        options.setdefault("log_rollouts_venv", self.venv)
        if options.get("n_epochs") is None and options.get("n_batches") is None:
            options["n_epochs"] = self.DEFAULT_N_EPOCHS
        if options.get("checkpoints") is not None:
            raise ConfigError(
                expected="`checkpoints` for DAgger's own training, where it is wanted",
                got="`checkpoints` in bc_train_kwargs",
                do="pass checkpoints=… to SimpleDAggerTrainer.train",
            )
        _log.info(
            "round %d: %d episodes, %d steps to learn from", self.round_num, self.demos.n_episodes, len(self.demos)
        )
        self.bc_trainer.train(**options)
        self.round_num += 1
        self.demos.n_closed = self.round_num
        return self.round_num

    def add_trajectories(self, trajectories: Iterable[Trajectory]) -> list[Path]:
        """Put demonstrations into this round's folder; their actions are the expert's.

        Returns:
            Their files.
        """
        folder = self.demos.folder_of(self.round_num)
        folder.mkdir(parents=True, exist_ok=True)
        number = len(demo_files(folder))
        written = []
        for trajectory in trajectories:
            while (path := demo_name(folder, number)).exists():
                number += 1
            write_demo(path, with_plain_infos(trajectory), self.demos.wrote)
            written.append(path)
        return written

    def save_policy(self, policy_path: AnyPath) -> None:
        """Write the policy to one file; ``understudy.load_saved_policy`` reads it."""
        self.bc_trainer.save_policy(policy_path)

    def save_trainer(self) -> tuple[Path, Path]:
        """Write trainer and policy to the scratch folder; `reconstruct_trainer` reads them.

        Returns:
            The trainer's folder, and the policy's file.

        Raises:
            CheckpointError: they cannot be written; what stood there is untouched.
        """
        for name in (f"{self.round_num:03d}", "latest"):
            self.write(self.scratch_dir / f"checkpoint-{name}")
            self.save_policy(self.scratch_dir / f"policy-{name}.safetensors")
        return self.scratch_dir / LATEST, self.scratch_dir / "policy-latest.safetensors"

    def state(self) -> dict[str, Any]:
        """The inner trainer's state, the round, generators, and which demonstrations there are."""
        inner = self.bc_trainer.state()
        return {
            "policy": inner.pop("policy"),
            "bc": inner,
            "round_num": self.round_num,
            "rng": generator_state(self.rng),
            "beta_schedule": schedule_state(self.beta_schedule),
            "demos": self._demos_state(),
        }

    def _demos_state(self) -> dict[str, Any]:
        return {
            "n_episodes": self.demos.n_episodes,
            "n_steps": self.demos.n_steps,
            "fingerprint": fingerprint(self.demos.demonstrations()) if len(self.demos) else "",
        }

    def _parts_in_files(self) -> Mapping[str, Writer]:
        return {Path(POLICY_FILE).stem: self.save_policy}

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Become what was saved in ``folder``; the demonstrations are read from the scratch folder again.

        Raises:
            CorruptFileError: the state is not one of DAgger.
            CheckpointError: it belongs to another policy.
            DataError: the scratch folder has other demonstrations than it had.
        """
        self.bc_trainer.restore(state["bc"], folder)
        self._restore_rounds(state)

    def _restore_rounds(self, state: Mapping[str, Any]) -> None:
        self.rng = generator_from(state["rng"])
        self.round_num = state["round_num"]
        self.demos = DemoStore(self.scratch_dir / "demos")
        for number in range(self.round_num):
            self.demos.take_round(number)
        self.demos.n_closed = self.round_num
        saved, now = state["demos"], self._demos_state()
        if saved != now:
            raise DataError(
                expected=f"the {saved['n_episodes']} demonstrations of the rounds before {self.round_num} in "
                f"{self.demos.folder}, with {saved['n_steps']} steps, as they were",
                got=f"{now['n_episodes']} with {now['n_steps']} steps, or altered ones",
                do="restore the folder from a copy, or begin again in another scratch folder",
            )
