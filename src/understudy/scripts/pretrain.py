"""``understudy pretrain``: clone into a Stable-Baselines3 model, and let that very model go on with RL."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from understudy.errors import ConfigError
from understudy.scripts._learners import Learner
from understudy.scripts._parts import (
    Compute,
    Environment,
    Evaluation,
    at_least,
    check_seed,
    environment_closed,
    option,
    say,
)
from understudy.scripts._policies import Expert, asks_a_person
from understudy.scripts._run_folder import RunFolder, default_path
from understudy.scripts._sources import DemonstrationSource, data_facts, doctors_line
from understudy.scripts._summary import counted

if TYPE_CHECKING:
    from rich.console import Console
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback

    from understudy.algorithms.pretrain import PretrainResult
    from understudy.data.demonstrations import Demonstrations
    from understudy.scripts._training import Seeds

_WARMUP_EPOCHS = 50
_HOLD, _FADE = 400, 600
_ANCHORED = ("sac", "tqc", "td3", "ddpg")
_OFF_POLICY = ("dqn", "qrdqn", "sac", "tqc", "td3", "ddpg")


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """How it is cloned into the model, and what keeps reinforcement learning from unlearning that."""

    n_epochs: int = 10
    """Passes over the demonstrations."""

    learning_rate: float = 1e-3
    """Of pretraining's own Adam; the model's own optimiser and learning rate are not touched."""

    batch_size: int = 64
    """Transitions in an update."""

    ent_weight: float = 0.0
    """Weight of an entropy bonus, for policies that give probabilities."""

    max_grad_norm: float | None = None
    """Longest gradient; longer ones are scaled down to it. None does not clip."""

    validation_fraction: float = 0.0
    """Share of the episodes kept apart to measure the loss on unseen data, in [0, 1)."""

    critic_warmup: int | None = None
    """Passes in which the critic learns the demonstrations' returns. None: 50 with --learn, if rewards are there; 0
    for SAC, TD3, DDPG and TQC, which are held and tied instead."""

    fill_replay_buffer: bool | None = None
    """Put the demonstrations into an off-policy model's replay buffer. None: with --learn, if rewards are there."""

    unknown_ends: Literal["terminated", "truncated"] | None = None
    """How episodes ended where the data does not say, for the critic and the replay buffer."""

    learn: int = 0
    """Steps of the environment to go on with, by the model's own reinforcement learning."""

    hold_actor: int | None = None
    """First steps of these in which only the critic learns. None: 400 for SAC, TD3, DDPG and TQC, else 0."""

    anchor: int | None = None
    """Steps in which the tie of the actor to its clone fades; one to the expert stays. 0: neither. None: 600 for
    SAC, TD3, DDPG and TQC, else 0."""

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        at_least(1, n_epochs=self.n_epochs, batch_size=self.batch_size)
        at_least(0, critic_warmup=self.critic_warmup, learn=self.learn, ent_weight=self.ent_weight)
        at_least(0, hold_actor=self.hold_actor, anchor=self.anchor)
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{option(name)} above 0, and finite", str(value), "pass a positive number")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                "--validation-fraction in [0, 1)",
                str(self.validation_fraction),
                "such as --validation-fraction 0.1",
            )

    def for_rl(self, algo: str, demos: Demonstrations) -> tuple[int, bool]:
        """Passes of the critic's warm-up, and whether to fill the replay buffer."""
        known = demos.rews is not None and (demos.dones is not None or self.unknown_ends is not None)
        usual = bool(self.learn and known)
        warmed = usual and algo not in _ANCHORED
        warmup = (_WARMUP_EPOCHS if warmed else 0) if self.critic_warmup is None else self.critic_warmup
        fill = (usual and algo in _OFF_POLICY) if self.fill_replay_buffer is None else self.fill_replay_buffer
        return warmup, fill

    def ties(self, algo: str) -> tuple[int, int]:
        """Steps in which the actor is held, and in which the tie to its clone fades."""
        hold, fade = (_HOLD, _FADE) if algo in _ANCHORED else (0, 0)
        return (
            hold if self.hold_actor is None else self.hold_actor,
            fade if self.anchor is None else self.anchor,
        )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Clone an expert into a Stable-Baselines3 model, which can go on with reinforcement learning.

    A new PPO from a bundled expert's demonstrations, then 20000 steps of its own:

        understudy pretrain CartPole-v1 --learn 20000

    Your demonstrations (a dataset, or a .npz), and another algorithm; --set has its arguments:

        understudy pretrain Pendulum-v1 --algo sac --demonstrations mine.npz --learn 10000 --set gamma=0.98

    A model that you have:

        understudy pretrain CartPole-v1 --model ppo.zip --demonstrations mine.npz --n-epochs 20

    The zips in the run folder's policies/ load with Stable-Baselines3; beside each is its policy without pickles.
    """

    environment: Environment
    learner: Learner = dataclasses.field(default_factory=Learner)
    source: DemonstrationSource = dataclasses.field(default_factory=DemonstrationSource)
    expert: Expert = dataclasses.field(default_factory=Expert)
    pretraining: Pretraining = dataclasses.field(default_factory=Pretraining)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/pretrain/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Pretrain, learn, evaluate, report; returns the exit code."""
        from understudy.algorithms._early_stopping import check_split
        from understudy.scripts._training import Seeds

        check_seed(self.seed)
        for part in (self.learner, self.source, self.pretraining, self.evaluation, self.compute):
            part.check()
        seeds = Seeds.spawn(self.seed)
        environment, source = self.environment, self.source
        path = self.out or default_path("pretrain", environment.env_id)
        folder = RunFolder(path, verb="pretrain", options=self, seed=self.seed)
        with environment_closed(environment, seeds.training) as venv, self.compute.limited(venv):
            say(console, "environment", f"[bold]{environment.env_id}[/bold]")
            algo, model = self.learner.make(venv, seeds.training)
            demos, expert = self._demonstrations(seeds, console, path)
            check_split(demos, self.pretraining.validation_fraction)
            size = f"{counted(demos.n_episodes, 'episode')}, {counted(len(demos), 'step')}"
            facts = data_facts(demos, source.demonstrations if source.own else "rolled out by the expert")
            say(console, "demonstrations", f"{size}, {escape(facts['source'])}")
            doctor = doctors_line(demos, venv, source, environment.env_id)
            if doctor is not None:
                say(console, "data doctor", f"[yellow]{escape(doctor)}[/yellow]")
            say(console, "model", f"{type(model).__name__}, {self.learner.model or 'new'}")
            with folder:
                folder.save_config(
                    data=facts,
                    used=self._used(algo, model, demos, expert),
                    spaces={"observation": str(venv.observation_space), "action": str(venv.action_space)},
                    hardware={**folder.config["hardware"], "device": str(model.device)},
                )
                return _Run(self, algo, model, expert, demos, seeds, folder, console).show()

    def _demonstrations(self, seeds: Seeds, console: Console, path: Path) -> tuple[Demonstrations, Any]:
        """Those of the user, or rolled out in environments of their own, and who showed them."""
        own = self.source.own
        where = self.environment if own else self.expert.where(self.environment)
        # Answers of a person lie in the folder until there is a run in it: the same command goes on with them.
        journal = None if own else path / "answers.jsonl"
        with environment_closed(where, seeds.demonstrations) as venv:
            expert = self.expert.load(where, venv, own_data=own, journal=journal)
            try:
                demos = self.source.load(where, expert, venv, seeds.demonstrations)
            except KeyboardInterrupt:
                if journal is not None and self.expert.is_human:
                    say(console, "go on", f"the same command, with --out {escape(str(path))}")
                raise
        say(console, "expert", "none" if expert is None else escape(self.expert.expert.replace("auto", "bundled")))
        return demos, expert

    def _used(self, algo: str, model: BaseAlgorithm, demos: Demonstrations, expert: Any) -> dict[str, Any]:
        """What stood for the options that were left open, in the options' own structure."""
        import torch

        warmup, fill = self.pretraining.for_rl(algo, demos)
        hold, fade = self.pretraining.ties(algo)
        tied = {"hold_actor": hold, "anchor": fade} if self.pretraining.learn else {}
        return {
            "learner": {"algo": algo, "policy": type(model.policy).__name__, "device": str(model.device)},
            "source": {"n_demonstrations": demos.n_episodes},
            "expert": {"expert": "none" if expert is None else self.expert.expert.replace("auto", "bundled")},
            "pretraining": {"critic_warmup": warmup, "fill_replay_buffer": fill, **tied},
            "compute": {"threads": torch.get_num_threads()},
        }


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run whose options, model and data are in order."""

    options: Pretrain
    algo: str
    model: BaseAlgorithm
    expert: Any
    demos: Demonstrations
    seeds: Seeds
    folder: RunFolder
    console: Console

    def show(self) -> int:
        """Clone, learn, save, evaluate, report; returns the exit code."""
        from understudy.scripts._training import conclude

        options = self.options
        start = time.perf_counter()
        before = copy.deepcopy(self.model.policy) if options.learner.model is not None else None
        self._until_stopped(self._pretrain, "clone")
        clone = copy.deepcopy(self.model.policy)
        paths = {"clone": self._save("clone")}
        if options.pretraining.learn:
            self._until_stopped(self._learn, "final")
            paths["model"] = self._save("final")
        seconds = time.perf_counter() - start
        last = self.folder.path / "policy" / "policy.safetensors"
        self.folder.save_config(policy_sha256=hashlib.sha256(last.read_bytes()).hexdigest())
        note = f"{counted(options.pretraining.n_epochs, 'epoch')} of cloning"
        if options.pretraining.learn:
            note += f", {options.pretraining.learn} steps of {type(self.model).__name__}"
        results = {"training_seconds": seconds, "training_note": note, **self._compared(before, clone)}
        conclude(self.folder, results, self.console, paths)
        return 0

    def _until_stopped(self, work: Any, name: str) -> None:
        """Do it; the model as it is when the user stops it is saved."""
        try:
            work()
        except KeyboardInterrupt:
            path = self._save(name)
            say(self.console, "interrupted", f"the model so far is saved, not evaluated: {escape(str(path))}")
            raise

    def _pretrain(self) -> None:
        from understudy.algorithms.pretrain import pretrain
        from understudy.scripts._metrics import metrics_logger

        wishes = self.options.pretraining
        warmup, fill = wishes.for_rl(self.algo, self.demos)
        if wishes.learn and not warmup and wishes.critic_warmup is None and self.algo not in _ANCHORED:
            say(self.console, "note", "no warm-up of the critic: the data has no rewards, or not how episodes ended")
        logger = metrics_logger(self.folder.path)
        try:
            done: PretrainResult[Any] = pretrain(
                self.model,
                self.demos,
                wishes.n_epochs,
                wishes.learning_rate,
                batch_size=wishes.batch_size,
                validation_fraction=wishes.validation_fraction,
                rng=self.seeds.training,
                ent_weight=wishes.ent_weight,
                max_grad_norm=wishes.max_grad_norm,
                critic_warmup=warmup,
                fill_replay_buffer=fill,
                unknown_ends=wishes.unknown_ends,
                progress_bar=self.options.progress_bar,
                custom_logger=logger,
            )
        finally:
            logger.close()
        last = done.losses[-1]
        held_out = "" if last.validation is None else f", {last.validation:.3g} on held-out episodes"
        say(self.console, "loss", f"{last.train:.3g}{held_out}")
        if done.critic is not None:
            say(self.console, "critic", f"squared error {done.critic.loss_before:.3g} → {done.critic.loss_after:.3g}")
        if done.n_replayed:
            say(self.console, "replay buffer", counted(done.n_replayed, "demonstrated step"))

    def _learn(self) -> None:
        from understudy.scripts._metrics import MetricsCallback, ProgressCallback

        n_steps = self.options.pretraining.learn
        metrics = MetricsCallback(self.folder.path / "metrics.jsonl")
        bar = ProgressCallback(n_steps, disable=not self.options.progress_bar)
        try:
            self.model.learn(
                n_steps, callback=[metrics, bar, *self._ties()], reset_num_timesteps=self.options.learner.model is None
            )
        finally:
            metrics.close()
            bar.close()

    def _ties(self) -> list[BaseCallback]:
        """What keeps the clone from being forgotten while its critic knows little."""
        from understudy.algorithms.pretrain import Anchor, HoldActor

        hold, fade = self.options.pretraining.ties(self.algo)
        held: list[BaseCallback] = [HoldActor(hold)] if hold else []
        return [*held, Anchor(self.demos, fade, rng=self.seeds.training)] if fade else held

    def _save(self, name: str) -> Path:
        from understudy.policies.serialize import save_policy, save_stable_model

        # Again without a word on the zip, which holds the time: the same run gives the same bytes here.
        save_policy(self.model.policy, self.folder.path / "policy" / "policy.safetensors")

        folder = self.folder.path / "policies" / name
        save_stable_model(folder, self.model)
        return folder / "model.zip"

    def _compared(self, before: Any, clone: Any) -> dict[str, Any]:
        """Returns of chance, of whoever demonstrated, and of the model before and after each part."""
        from understudy.scripts._training import compare_actions, evaluate_all

        options, own = self.options, self.options.source.own
        other = None if asks_a_person(self.expert) else self.expert
        name = options.expert.name(own_data=own)
        policies: dict[str, Any] = {"random": None}
        if other is not None:
            policies[name] = other
        if before is not None:
            policies["before"] = before
        policies["clone"] = clone
        if options.pretraining.learn:
            policies["after RL"] = self.model.policy
        returns = evaluate_all(
            policies, options.environment, options.evaluation, self.seeds.evaluation, progress_bar=options.progress_bar
        )
        earned = self.demos.episode_returns()
        if (own or other is None) and earned is not None and self.demos.episodes_known:
            shown = {"returns": earned, "lengths": self.demos.episode_lengths}
            returns = {"random": returns.pop("random"), "demonstrations": shown, **returns}
        notes = []
        if own and other is not None:
            notes.append(f"The {name} is shown for comparison: it did not give the demonstrations.")
        teacher = None if own else other
        actions = compare_actions(clone, teacher, options.environment, self.demos, (), self.seeds.fresh)
        return {"returns": returns, "notes": notes, **actions}
