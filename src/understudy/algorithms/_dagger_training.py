"""DAgger's rounds with an expert that can be asked, in one piece or in legs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from understudy.algorithms._dagger_beta import beta_of, schedule_state
from understudy.algorithms._dagger_collector import InteractiveTrajectoryCollector
from understudy.algorithms._dagger_demos import demo_files
from understudy.algorithms._dagger_expert import Answers, Expert, RoundJournal, is_machine
from understudy.algorithms._dagger_learner import Learner
from understudy.algorithms._legs import LegRun
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.acting import drawing_from, policy_in_a_loop
from understudy.errors import ConfigError
from understudy.policies.recurrent import is_recurrent
from understudy.util.checkpoint import using
from understudy.util.seeding import leg_generator, make_seeds

if TYPE_CHECKING:
    from understudy.algorithms._dagger_simple import SimpleDAggerTrainer


@dataclasses.dataclass(frozen=True)
class RoundResult:
    """What one round did."""

    round_num: int
    """Counted from 0."""
    beta: float
    """Share of steps in which the expert was to act."""
    n_episodes: int
    """Episodes collected."""
    n_timesteps: int
    """Steps in them."""
    n_replayed: int
    """Answers that an interrupted attempt had been given, and that were not asked for again."""
    mean_return: float
    """Of the mixture of expert and policy."""


@dataclasses.dataclass(frozen=True)
class DAggerResult:
    """What one call of ``train`` did."""

    rounds: tuple[RoundResult, ...]
    """Those of this process; what a resumed run had done before is not among them."""
    n_timesteps: int
    """Steps in the environment that were stored, all rounds of the run together."""


@dataclasses.dataclass(frozen=True)
class RoundWishes:
    """What the caller of ``train`` asked for; see there."""

    total_timesteps: int
    min_episodes: int
    min_timesteps: int
    bc_train_kwargs: Mapping[str, Any]
    progress_bar: bool
    checkpoints: Checkpoints | None

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "min_episodes", "min_timesteps"):
            if getattr(self, name) < 1:
                raise ConfigError(expected=f"`{name}` ≥ 1", got=repr(getattr(self, name)), do="pass 1 or more")


class DAggerTraining:
    """Rounds about to be made.

    Args:
        trainer: whose policy learns.
        wishes: what the caller asked for.
    """

    def __init__(self, trainer: SimpleDAggerTrainer, wishes: RoundWishes) -> None:
        self._trainer = trainer
        self._wishes = wishes
        self._run: LegRun | None = None
        self._rounds: list[RoundResult] = []
        self._steps = 0
        self._last_seed: int | None = None
        gate_is_asked = getattr(trainer.gate, "asks_a_person", False)
        self._keeps_answers = not is_machine(trainer.expert_policy) or gate_is_asked

    def run(self) -> DAggerResult:
        """Make rounds until the steps are used up."""
        if self._wishes.checkpoints is None:
            self._make_rounds()
        else:
            self._in_legs(self._wishes.checkpoints)
        return DAggerResult(tuple(self._rounds), self._steps)

    def _in_legs(self, checkpoints: Checkpoints) -> None:
        trainer = self._trainer
        device = trainer.bc_trainer.policy.device
        with LegRun(checkpoints, trainer, self._identity(), on_leg=lambda rng: None, device=device) as run:
            self._run = run
            saved = run.begin()
            if saved is None:
                run.save_start(self._state())
            else:
                with using(run.folder):
                    self._steps = saved["steps"]
                    finished = saved["finished"]
                if finished:
                    return
            self._make_rounds()
            run.finish(self._steps, self._state(finished=True))

    def _state(self, *, finished: bool = False) -> dict[str, Any]:
        return {"steps": self._steps, "finished": finished}

    def _identity(self) -> dict[str, Any]:
        """What a run in legs is; a resumed one must be the same."""
        trainer, wishes = self._trainer, self._wishes
        bc = trainer.bc_trainer
        plain = {key: value for key, value in wishes.bc_train_kwargs.items() if isinstance(value, (int, float, str))}
        return {
            "total_timesteps": int(wishes.total_timesteps),
            "min_episodes": int(wishes.min_episodes),
            "min_timesteps": int(wishes.min_timesteps),
            "beta_schedule": schedule_state(trainer.beta_schedule),
            "gate": trainer.gate is not None,
            "expert": type(trainer.expert_policy).__name__,
            "n_envs": trainer.venv.num_envs,
            "bc": {key: value for key, value in plain.items() if key != "progress_bar"},
            "batch_size": bc.batch_size,
            "minibatch_size": bc.minibatch_size,
            "ent_weight": float(bc.loss_calculator.ent_weight),
            "l2_weight": float(bc.loss_calculator.l2_weight),
            "optimizer": type(bc.optimizer).__name__,
            "policy": hashlib.sha256(str(bc.policy).encode()).hexdigest()[:16],
            "path": bc.path,
            "device": bc.policy.device.type,
            "threads": torch.get_num_threads(),
            **({"sequence_length": bc.sequence_length, "burn_in": bc.burn_in} if is_recurrent(bc.policy) else {}),
        }

    def _make_rounds(self) -> None:
        total = self._wishes.total_timesteps
        bar = tqdm(total=total, initial=self._steps, desc="dagger", unit="step", disable=not self._wishes.progress_bar)
        with bar:
            while self._steps < total:
                before = self._steps
                self._make_round()
                bar.update(self._steps - before)
                if self._run is not None and self._steps < total:
                    self._run.next_leg(self._steps, self._state())

    def _make_round(self) -> None:
        trainer = self._trainer
        number = trainer.round_num
        header = self._begin_round(number)
        seed = header["seed"]
        rng = leg_generator(seed, number)
        done = self._collect(rng, (seed, number), header["first_number"])
        self._rounds.append(done)
        self._log(done)
        trainer.bc_trainer.rng = np.random.default_rng(make_seeds(rng))
        trainer.extend_and_update(self._bc_options())
        trainer.open_round = None
        self._steps += done.n_timesteps
        trainer.rng = np.random.default_rng(make_seeds(rng))

    def _bc_options(self) -> dict[str, Any]:
        """A wish to stop is heard between two epochs."""
        options = dict(self._wishes.bc_train_kwargs)
        run, own = self._run, options.get("on_epoch_end")
        if run is None:
            return options

        def on_epoch_end() -> None:
            if own is not None:
                own()
            self._stop_if_asked()

        return {**options, "on_epoch_end": on_epoch_end}

    def _stop_if_asked(self) -> None:
        if self._run is not None and self._run.stop_asked:
            self._run.stop(self._state())

    def _begin_round(self, number: int) -> dict[str, Any]:
        """The round's first line: as an interrupted attempt wrote it, or a new one.

        Raises:
            ConfigError: the folder has a round of an earlier run in it, which nobody asked to resume.
        """
        trainer = self._trainer
        folder = trainer.demos.folder_of(number)
        journal = RoundJournal(folder)
        header = journal.header()
        mine = trainer.open_round is not None and trainer.open_round[0] == number
        seed = self._run.seed if self._run is not None else trainer.open_round[1] if mine else None  # type: ignore[index]
        untouched = header is not None and len(demo_files(folder)) == header["first_number"]
        if seed is None and untouched and not self._keeps_answers:
            journal.remove()  # nothing came of that attempt
            header = None
        if header is not None:
            if seed is None and self._keeps_answers:
                seed = header["seed"]  # a process that is gone was given answers: the same round goes on
            if header["seed"] != seed or header["round"] != number:
                raise ConfigError(
                    expected=f"a scratch folder without a round {number} of an earlier run",
                    got=f"{len(demo_files(folder))} demonstrations of another run in {folder}",
                    do="use an empty scratch folder, or go on with that run: its checkpoints with resume=True, or "
                    "reconstruct_trainer",
                )
        else:
            seed = make_seeds(trainer.rng) if seed is None else seed
            header = journal.begin(number, seed, len(demo_files(folder)))
        trainer.open_round = (number, header["seed"])
        return header

    def _collect(self, rng: np.random.Generator, seed: tuple[int, int], first_number: int) -> RoundResult:
        trainer, wishes = self._trainer, self._wishes
        venv, policy, source = trainer.venv, trainer.bc_trainer.policy, trainer.expert_policy
        trainer.demos.forget_fresh()
        with ExitStack() as seeded:
            seeded.enter_context(drawing_from(rng, source, venv))
            seeded.enter_context(drawing_from(rng, policy, venv))
            act = policy_in_a_loop(policy, venv, deterministic_policy=False)
            collector = trainer._collector(Learner(act), rng, first_number=first_number)
            journal = RoundJournal(collector.save_dir) if self._keeps_answers else None
            answers = Answers(Expert(source, venv), trainer.gate, journal, seed, venv.action_space)
            self._until_enough(collector, answers, wishes)
        return RoundResult(
            round_num=trainer.round_num,
            beta=collector.beta,
            n_episodes=len(collector.returns),
            n_timesteps=collector.n_steps,
            n_replayed=answers.n_replayed,
            mean_return=float(np.mean(collector.returns)),
        )

    def _until_enough(self, collector: InteractiveTrajectoryCollector, answers: Answers, wishes: RoundWishes) -> None:
        obs = collector.reset()
        dones = np.ones(collector.num_envs, dtype=bool)
        gate = self._trainer.gate
        if hasattr(gate, "remember"):
            gate.remember(~dones)  # type: ignore[union-attr]
        while collector.active.any():
            drives = answers.gate(obs, collector.policy_acts) if gate is not None else None
            asks = collector.decide(drives)
            acts = answers.actions(obs, dones, asks, collector.policy_acts)
            if answers.diverged:
                collector.replace_no_files()
            obs, _, dones, _ = collector.step(acts)
            if (
                dones.any()
                and len(collector.returns) >= wishes.min_episodes
                and collector.n_steps >= wishes.min_timesteps
            ):
                collector.retire(dones)
            self._stop_if_asked()

    def _log(self, done: RoundResult) -> None:
        logger = self._trainer.logger
        logger.record("dagger/total_timesteps", self._steps + done.n_timesteps)
        logger.record("dagger/round_num", done.round_num)
        logger.record("dagger/round_episode_count", done.n_episodes)
        logger.record("dagger/round_timestep_count", done.n_timesteps)
        logger.record("dagger/mean_episode_reward", done.mean_return)
        logger.record("dagger/beta", beta_of(self._trainer.beta_schedule, done.round_num))
