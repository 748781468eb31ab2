"""``understudy train bc``: clone an expert, or a dataset, and show how well that went."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from understudy.errors import TrainingInterrupted
from understudy.scripts._cloning import Cloning, Length, make_trainer
from understudy.scripts._parts import Compute, Environment, Evaluation, Saving, check_seed, environment_closed, say
from understudy.scripts._policies import Expert, asks_a_person
from understudy.scripts._run_folder import RunFolder, default_path
from understudy.scripts._sources import DemonstrationSource, data_facts, doctors_line
from understudy.scripts._summary import counted

if TYPE_CHECKING:
    from rich.console import Console
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.algorithms.bc import BC, BCResult
    from understudy.algorithms.checkpoints import Checkpoints
    from understudy.data.acting import AnyPolicy
    from understudy.data.demonstrations import Demonstrations
    from understudy.scripts._training import Seeds


@dataclasses.dataclass(frozen=True)
class TrainBC:
    """Clone an expert's behaviour from demonstrations (behavioural cloning).

    Learns by maximum likelihood to do what the expert did, then compares random actions, expert and clone. An
    environment with a bundled expert needs nothing else:

        understudy train bc CartPole-v1

    Your own data: a .npz with obs, acts and episode_ends. Look at it first with `understudy inspect PATH`. The clone
    is compared with your demonstrations then, and with a bundled expert only if --expert bundled asks for it.

        understudy train bc Pendulum-v1 --demonstrations mine.npz

    Ctrl-C saves and stops. A run that was stopped, or killed, goes on as if it had not been:

        understudy train bc --resume FOLDER
    """

    environment: Environment
    source: DemonstrationSource = dataclasses.field(default_factory=DemonstrationSource)
    expert: Expert = dataclasses.field(default_factory=Expert)
    cloning: Cloning = dataclasses.field(default_factory=Cloning)
    length: Length = dataclasses.field(default_factory=Length)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)
    saving: Saving = dataclasses.field(default_factory=Saving)

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/bc/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Train, evaluate, report; returns the exit code."""
        path = self.out or default_path("bc", self.environment.env_id)
        # As absolute paths, so that the run can be resumed from anywhere.
        kept = dataclasses.replace(self, source=self.source.absolute(), expert=self.expert.absolute())
        return clone(self, RunFolder(path, verb="train bc", options=kept, seed=self.seed), console)

    def resume(self, folder: RunFolder, console: Console, *, allow_other_threads: bool) -> int:
        """Go on with the run in ``folder``; returns the exit code."""
        return clone(self, folder, console, allow_other_threads=allow_other_threads)


def clone(options: TrainBC, folder: RunFolder, console: Console, *, allow_other_threads: bool = False) -> int:
    """The whole run into ``folder``, which is made when options and data have proved usable.

    Returns:
        0; or 130 after Ctrl-C and 143 after SIGTERM while it was training: the clone so far is saved then.
    """
    from understudy.algorithms._early_stopping import check_split
    from understudy.scripts._training import Seeds

    check_seed(options.seed)
    for part in (
        options.length,
        options.source,
        options.evaluation,
        options.compute,
        options.cloning,
        options.saving,
    ):
        part.check()
    seeds = Seeds.spawn(options.seed)
    source = options.source
    is_shown = options.expert.is_human and not source.own
    environment = options.expert.where(options.environment) if is_shown else options.environment
    with contextlib.ExitStack() as held:
        venv = held.enter_context(environment_closed(environment, seeds.demonstrations))
        held.enter_context(options.compute.limited(venv))
        say(console, "environment", f"[bold]{environment.env_id}[/bold]")
        journal = folder.path / "answers.jsonl" if is_shown else None
        expert = options.expert.load(environment, venv, own_data=source.own, journal=journal)
        if is_shown:
            held.enter_context(folder)  # before the first question: what is answered can be resumed then
        with contextlib.nullcontext() if is_shown else console.status("recording or reading demonstrations"):
            demos = _recorded(options, expert, venv, folder, console, seeds.demonstrations)
            doctor = doctors_line(demos, venv, source, environment.env_id)
        facts = data_facts(demos, source.demonstrations if source.own else "rolled out by the expert")
        size = f"{counted(facts['episodes'], 'episode')}, {counted(facts['transitions'], 'step')}"
        say(console, "demonstrations", f"{size}, {escape(facts['source'])}")
        if doctor is not None:
            say(console, "data doctor", f"[yellow]{escape(doctor)}[/yellow]")
        trainer = make_trainer(options.cloning, demos, venv, seeds.training)
        check_split(demos, options.length.validation_fraction)
        with contextlib.nullcontext() if is_shown else folder:
            used = _used(options, trainer, expert, demos)
            spaces = {"observation": str(venv.observation_space), "action": str(venv.action_space)}
            hardware = {**folder.config["hardware"], "device": used["cloning"]["device"]}
            folder.save_config(data=facts, used=used, spaces=spaces, hardware=hardware)
            checkpoints = options.saving.checkpoints(folder.checkpoints, allow_other_threads=allow_other_threads)
            return _Run(options, trainer, expert, demos, seeds, folder, checkpoints, console).show()


def _recorded(
    options: TrainBC, expert: AnyPolicy, venv: VecEnv, folder: RunFolder, console: Console, seed: int
) -> Demonstrations:
    """Rolled out or read; a person who stops is told how to go on."""
    try:
        return options.source.load(options.environment, expert, venv, seed)
    except KeyboardInterrupt:
        if options.expert.is_human:
            say(console, "go on", f"understudy train bc --resume {escape(str(folder.path))}")
        raise


def _used(options: TrainBC, trainer: BC, expert: AnyPolicy, demos: Demonstrations) -> dict[str, Any]:
    """What stood for the options that were left open, in the options' own structure."""
    import torch

    cloning = options.cloning
    return {
        "source": {"n_demonstrations": demos.n_episodes},
        "expert": {"expert": "none" if expert is None else options.expert.expert.replace("auto", "bundled")},
        "cloning": {
            "device": str(trainer.policy.device),
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "minibatch_size": cloning.minibatch_size or cloning.batch_size,
        },
        "length": {
            "n_epochs": options.length.epochs,
            "log_interval": options.length.interval(len(demos), cloning.batch_size),
        },
        "compute": {"threads": torch.get_num_threads()},
    }


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run whose options and data are in order."""

    options: TrainBC
    trainer: BC
    expert: AnyPolicy
    demos: Demonstrations
    seeds: Seeds
    folder: RunFolder
    checkpoints: Checkpoints
    console: Console

    def show(self) -> int:
        """Train, save, evaluate, report; returns the exit code."""
        from understudy.scripts._training import conclude

        start = time.perf_counter()
        trained = self._train()
        seconds = time.perf_counter() - start
        policy_path = self.folder.path / "policy" / "policy.safetensors"
        self.trainer.save_policy(policy_path)
        self.folder.save_config(policy_sha256=hashlib.sha256(policy_path.read_bytes()).hexdigest())
        batch_size = self.options.cloning.batch_size
        n_epochs = None if isinstance(trained, TrainingInterrupted) else trained.fit.n_epochs
        results: dict[str, Any] = {
            "training_seconds": seconds,
            "training_note": self.options.length.note(batch_size, n_epochs),
        }
        if isinstance(trained, TrainingInterrupted):
            self.folder.save_config(status="interrupted")
            say(self.console, "interrupted", f"after {seconds:.1f} s; the clone so far is saved, not evaluated")
            conclude(self.folder, results, self.console, {"policy": policy_path})
            say(self.console, "go on", f"understudy train bc --resume {escape(str(self.folder.path))}")
            return 128 + trained.signal
        if trained.held_out_episodes:
            results["validation"] = {
                "neglogp": trained.validation_neglogp,
                "best_epoch": trained.best_epoch,
                "batches_an_epoch": self._batches_an_epoch(trained),
            }
        conclude(self.folder, {**results, **self._compared(trained)}, self.console, {"policy": policy_path})
        return 0

    def _train(self) -> BCResult | TrainingInterrupted:
        """What came out, or how it was stopped."""
        from understudy.scripts._metrics import forget_metrics, metrics_logger
        from understudy.util.checkpoint import latest, step_of

        newest = latest(self.folder.checkpoints)
        forget_metrics(self.folder.path, "bc/batch", 0 if newest is None else step_of(newest))
        if self.folder.resumed:
            say(self.console, "resumed", "at the beginning" if newest is None else f"at update {step_of(newest):,}")
        length = self.options.length
        interval = length.interval(len(self.demos), self.options.cloning.batch_size)
        self.trainer.logger = logger = metrics_logger(self.folder.path)
        try:
            result = self.trainer.train(
                n_epochs=length.epochs,
                n_batches=length.n_batches,
                log_interval=interval,
                progress_bar=self.options.progress_bar,
                validation_fraction=length.validation_fraction,
                patience=length.patience,
                checkpoints=self.checkpoints,
            )
            if result.validation_neglogp:  # logged with the next batch, and after the last epoch there is none
                logger.record("bc/batch", result.fit.n_batches)
                logger.record("bc/validation_neglogp", result.validation_neglogp[-1])
                logger.dump(-(-result.fit.n_batches // interval))
        except TrainingInterrupted as stopped:
            return stopped
        finally:
            logger.close()
        return result

    def _batches_an_epoch(self, trained: BCResult) -> int:
        held_out = int(self.demos.episode_lengths[list(trained.held_out_episodes)].sum())
        return -(-(len(self.demos) - held_out) // self.options.cloning.batch_size)

    def _compared(self, trained: BCResult) -> dict[str, Any]:
        """Returns and actions beside those of whoever demonstrated; others who were asked for get a row only."""
        from understudy.scripts._training import compare_actions, evaluate_all

        options, demos, own = self.options, self.demos, self.options.source.own
        name = options.expert.name(own_data=own)
        other = None if asks_a_person(self.expert) else self.expert
        policies = {"random": None, **({} if other is None else {name: other}), "clone": self.trainer.policy}
        returns = evaluate_all(
            policies, options.environment, options.evaluation, self.seeds.evaluation, progress_bar=options.progress_bar
        )
        earned = demos.episode_returns()
        if (own or other is None) and earned is not None and demos.episodes_known:
            shown = {"returns": earned, "lengths": demos.episode_lengths}
            returns = {"random": returns.pop("random"), "demonstrations": shown, **returns}
        notes = []
        if own and other is not None:
            notes.append(f"The {name} is shown for comparison: it did not give the demonstrations.")
        teacher = None if own else other
        actions = compare_actions(
            self.trainer.policy, teacher, options.environment, demos, trained.held_out_episodes, self.seeds.fresh
        )
        return {"returns": returns, "notes": notes, **actions}
