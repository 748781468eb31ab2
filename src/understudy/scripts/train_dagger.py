"""``understudy train dagger``: let the clone act, ask the expert about the states it gets to, and learn from that."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from understudy.errors import ConfigError, TrainingInterrupted
from understudy.scripts._callables import is_reference
from understudy.scripts._cloning import Cloning, make_trainer
from understudy.scripts._parts import Compute, Environment, Evaluation, at_least, check_seed, environment_closed, say
from understudy.scripts._policies import Expert, asks_a_person
from understudy.scripts._rounds import Rounds, forget_rounds, rounds_logged
from understudy.scripts._run_folder import RunFolder, default_path
from understudy.scripts._sources import StartingData, data_facts, doctors_line
from understudy.scripts._summary import counted

if TYPE_CHECKING:
    from rich.console import Console
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.algorithms.checkpoints import Checkpoints
    from understudy.algorithms.dagger import DAggerResult, SimpleDAggerTrainer
    from understudy.scripts._training import Seeds

_ALL = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class RoundsSaving:
    """What is saved after each round, for --resume and for the curve of returns."""

    keep_checkpoints: int | None = None
    """How many of the newest rounds' states stay. None keeps all, so that the best can be chosen afterwards."""

    n_round_episodes: int = 20
    """Episodes that each kept round's policy is evaluated for, once training is over; 0 for none."""

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        at_least(1, keep_checkpoints=self.keep_checkpoints)
        at_least(0, n_round_episodes=self.n_round_episodes)

    def checkpoints(self, folder: Path, *, allow_other_threads: bool) -> Checkpoints:
        """What the trainer's ``train`` takes."""
        from understudy.algorithms.checkpoints import Checkpoints

        keep = self.keep_checkpoints or _ALL
        return Checkpoints(folder, keep=keep, resume=True, allow_other_threads=allow_other_threads)


@dataclasses.dataclass(frozen=True)
class TrainDAgger:
    """Let the clone act, ask the expert what it would have done there, and learn from all its answers (DAgger).

    Without options it teaches CartPole-v1 by its bundled expert, in seconds:

        understudy train dagger

    An expert of your own: a policy's file, a function in a module of yours, or you, at this terminal.

        understudy train dagger Pendulum-v1 --expert experts/pendulum.zip
        understudy train dagger CartPole-v1 --expert my_rules:act --beta linear:1
        understudy train dagger CartPole-v1 --expert human --total-timesteps 200

    Ctrl-C saves and stops. A run that was stopped, or killed, goes on as if it had not been; no answer of a person or
    of a function is asked for twice:

        understudy train dagger --resume FOLDER
    """

    environment: Environment = dataclasses.field(default_factory=lambda: Environment("CartPole-v1"))
    expert: Expert = dataclasses.field(default_factory=Expert)
    rounds: Rounds = dataclasses.field(default_factory=Rounds)
    source: StartingData = dataclasses.field(default_factory=StartingData)
    cloning: Cloning = dataclasses.field(default_factory=Cloning)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)
    saving: RoundsSaving = dataclasses.field(default_factory=RoundsSaving)

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/dagger/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left; not where a person is asked."""

    @property
    def at_console(self) -> bool:
        """Whether a person answers here, or says who drives: in one environment then."""
        return self.expert.is_human or self.rounds.take_over

    def run(self, console: Console) -> int:
        """Train, evaluate, report; returns the exit code."""
        path = self.out or default_path("dagger", self.environment.env_id)
        # As absolute paths, so that the run can be resumed from anywhere.
        kept = dataclasses.replace(self, source=self.source.absolute(), expert=self.expert.absolute())
        folder = RunFolder(path, verb="train dagger", options=kept, seed=self.seed)
        return _teach(self, folder, console, allow_other_threads=False)

    def resume(self, folder: RunFolder, console: Console, *, allow_other_threads: bool) -> int:
        """Go on with the run in ``folder``; returns the exit code."""
        return _teach(self, folder, console, allow_other_threads=allow_other_threads)


def _teach(options: TrainDAgger, folder: RunFolder, console: Console, *, allow_other_threads: bool) -> int:
    """The whole run into ``folder``, which is made when options, expert and data have proved usable.

    Returns:
        0; or 130 after Ctrl-C and 143 after SIGTERM while it was training: the clone so far is saved then.
    """
    from understudy.scripts._training import Seeds

    check_seed(options.seed)
    for part in (
        options.rounds,
        options.source,
        options.evaluation,
        options.compute,
        options.cloning,
        options.saving,
    ):
        part.check()
    _check_batch(options)
    seeds = Seeds.spawn(options.seed)
    environment = options.environment
    if options.at_console:
        environment = dataclasses.replace(environment, n_envs=1)
    with environment_closed(environment, seeds.demonstrations) as venv, options.compute.limited(venv):
        say(console, "environment", f"[bold]{environment.env_id}[/bold]")
        expert = options.expert.load(environment, venv, own_data=False)
        if expert is None:
            raise ConfigError(
                "an expert to ask",
                f"none for {environment.env_id}",
                "pass --expert PATH (understudy train rl trains one), --expert module:function, or --expert human",
            )
        if options.rounds.take_over:
            from understudy.scripts._person import check_console

            check_console()
        begun_with = options.source.load(venv)
        run = _Run(options, expert, seeds, folder, console)
        make_trainer(options.cloning, None, venv, seeds.training)  # what it refuses is told before there is a folder
        with folder:
            checkpoints = options.saving.checkpoints(folder.checkpoints, allow_other_threads=allow_other_threads)
            return run.show(venv, begun_with, checkpoints)


def _check_batch(options: TrainDAgger) -> None:
    """Every round must have a batch."""
    steps, batch = options.rounds.rollout_round_min_timesteps, options.cloning.batch_size
    if steps < batch:
        raise ConfigError(
            f"--rollout-round-min-timesteps of at least --batch-size {batch}",
            str(steps),
            f"pass --batch-size {steps} or less, or more steps to a round",
        )


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run whose options are in order."""

    options: TrainDAgger
    expert: Any
    seeds: Seeds
    folder: RunFolder
    console: Console

    def show(self, venv: VecEnv, begun_with: list[Any] | None, checkpoints: Checkpoints) -> int:
        """Train, save, evaluate, report; returns the exit code."""
        from understudy.scripts._training import conclude

        trainer = self._trainer(venv, begun_with)
        used = self._used(trainer)
        spaces = {"observation": str(venv.observation_space), "action": str(venv.action_space)}
        hardware = {**self.folder.config["hardware"], "device": used["cloning"]["device"]}
        self.folder.save_config(used=used, spaces=spaces, hardware=hardware)
        start = time.perf_counter()
        stopped = self._train(trainer, checkpoints)
        seconds = time.perf_counter() - start
        policy_path = self.folder.path / "policy" / "policy.safetensors"
        trainer.save_policy(policy_path)
        self.folder.save_config(policy_sha256=hashlib.sha256(policy_path.read_bytes()).hexdigest())
        results: dict[str, Any] = {
            "training_seconds": seconds,
            "training_note": f"{counted(trainer.round_num, 'round')}, batches of {self.options.cloning.batch_size}",
        }
        if stopped is not None:
            self.folder.save_config(status="interrupted")
            say(self.console, "interrupted", f"after {counted(trainer.round_num, 'round')}; the clone so far is saved")
            conclude(self.folder, {**results, "training_note": "interrupted"}, self.console, {"policy": policy_path})
            self._say_how_to_go_on()
            return 128 + stopped
        demos = trainer.demos.demonstrations()
        size = f"{counted(demos.n_episodes, 'episode')}, {counted(len(demos), 'step')}"
        say(self.console, "labelled", f"{size}, in {counted(trainer.round_num, 'round')}")
        doctor = doctors_line(demos, venv, None, self.options.environment.env_id)
        if doctor is not None:
            say(self.console, "data doctor", f"[yellow]{escape(doctor)}[/yellow]")
        self.folder.save_config(data=data_facts(demos, f"labelled by the expert in {trainer.round_num} rounds"))
        conclude(self.folder, {**results, **self._compared(trainer, demos)}, self.console, {"policy": policy_path})
        return 0

    def _trainer(self, venv: VecEnv, begun_with: list[Any] | None) -> SimpleDAggerTrainer:
        from understudy.algorithms.dagger import SimpleDAggerTrainer

        gate = None
        if self.options.rounds.take_over:
            from understudy.scripts._person import ShownGate

            gate = ShownGate(self.options.environment.env_id)
        return SimpleDAggerTrainer(
            venv=venv,
            scratch_dir=self.folder.path,
            expert_policy=self.expert,
            rng=self.seeds.training,
            expert_trajs=begun_with,
            beta_schedule=self.options.rounds.schedule(),
            bc_trainer=make_trainer(self.options.cloning, None, venv, self.seeds.training),
            gate=gate,
        )

    def _used(self, trainer: SimpleDAggerTrainer) -> dict[str, Any]:
        """What stood for the options that were left open, in the options' own structure."""
        import torch

        options = self.options
        n_epochs = options.rounds.n_epochs
        if n_epochs is None and options.rounds.n_batches is None:
            n_epochs = trainer.DEFAULT_N_EPOCHS
        return {
            "expert": {"expert": options.expert.expert.replace("auto", "bundled")},
            "rounds": {"total_timesteps": options.rounds.steps(at_console=options.at_console), "n_epochs": n_epochs},
            "cloning": {
                "device": str(trainer.policy.device),
                "learning_rate": trainer.bc_trainer.optimizer.param_groups[0]["lr"],
                "minibatch_size": options.cloning.minibatch_size or options.cloning.batch_size,
            },
            "compute": {"threads": torch.get_num_threads()},
        }

    def _train(self, trainer: SimpleDAggerTrainer, checkpoints: Checkpoints) -> int | None:
        """Make the rounds; the number of the signal that stopped them, if one did."""
        from understudy.scripts._metrics import metrics_logger
        from understudy.scripts._person import QuestionInterrupted

        self._say_where_it_stands()
        rounds = self.options.rounds
        total = rounds.steps(at_console=self.options.at_console)
        trainer.logger = logger = metrics_logger(self.folder.path)
        try:
            done: DAggerResult = trainer.train(
                total,
                rollout_round_min_episodes=rounds.rollout_round_min_episodes,
                rollout_round_min_timesteps=min(rounds.rollout_round_min_timesteps, total),
                bc_train_kwargs=rounds.training(),
                progress_bar=self.options.progress_bar and not self.options.at_console,
                checkpoints=checkpoints,
            )
        except (TrainingInterrupted, QuestionInterrupted) as stopped:
            return stopped.signal
        except Exception:
            self._say_how_to_go_on()
            raise
        finally:
            logger.close()
        replayed = sum(each.n_replayed for each in done.rounds)
        if replayed:
            say(self.console, "answers", f"{replayed} were there already, and were not asked for again")
        return None

    def _say_where_it_stands(self) -> None:
        """Of a resumed run; what it will write again to ``metrics.jsonl`` is removed."""
        from understudy.util.checkpoint import latest, read_checkpoint

        newest = latest(self.folder.checkpoints)
        number = 0 if newest is None else int(read_checkpoint(newest).state["trainer"]["round_num"])
        forget_rounds(self.folder.path, number)
        if self.folder.resumed:
            say(self.console, "resumed", f"in round {number}, counted from 0")

    def _say_how_to_go_on(self) -> None:
        code = self.options.expert.expert
        again = f" --expert {code}" if is_reference(code) else ""
        package = self.options.environment.env_id
        again += f" --environment {package}" if ":" in package else ""
        say(self.console, "go on", f"understudy train dagger --resume {escape(str(self.folder.path))}{again}")

    def _compared(self, trainer: SimpleDAggerTrainer, demos: Any) -> dict[str, Any]:
        """Returns beside those of chance and, unless that would take a person's time, of the expert."""
        from understudy.scripts._training import compare_actions, evaluate_all

        options = self.options
        teacher = None if asks_a_person(self.expert) else self.expert
        policies = {"random": None, **({} if teacher is None else {"expert": teacher}), "clone": trainer.policy}
        returns = evaluate_all(
            policies, options.environment, options.evaluation, self.seeds.evaluation, progress_bar=options.progress_bar
        )
        actions = compare_actions(trainer.policy, teacher, options.environment, demos, (), self.seeds.fresh)
        notes = [] if teacher is not None else ["The expert is a person, who was not asked to play once more."]
        return {"returns": returns, "notes": notes, "rounds": self._rounds(), **actions}

    def _rounds(self) -> list[dict[str, Any]]:
        """Of each kept state: steps labelled so far, and the policy's returns; beside them the mixture's that acted."""
        from understudy.policies.serialize import load_saved_policy
        from understudy.util.checkpoint import step_of

        n = self.options.saving.n_round_episodes
        if not n:
            return []
        evaluation = dataclasses.replace(self.options.evaluation, n_eval_episodes=n)
        logged = {int(line["dagger/total_timesteps"]): line for line in rounds_logged(self.folder.path)}
        found = []
        for kept in sorted(self.folder.checkpoints.glob("step-*"), key=step_of):
            policy = load_saved_policy(kept / "policy.safetensors", device="cpu")
            result = evaluation.returns(policy, self.options.environment, self.seeds.evaluation, progress_bar=False)
            line = logged.get(step_of(kept), {})
            found.append(
                {
                    "steps": step_of(kept),
                    "returns": result.returns,
                    "mixture": line.get("dagger/mean_episode_reward"),
                    "beta": line.get("dagger/beta"),
                }
            )
        return found
