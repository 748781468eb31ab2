"""``understudy train bc``: clone an expert, or a dataset, and show how well that went."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import ConfigError
from understudy.scripts._parts import (
    DemonstrationSource,
    Environment,
    Evaluation,
    Expert,
    data_facts,
    environment_closed,
    say,
)
from understudy.scripts._run_folder import RunFolder, default_path

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.data.demonstrations import Demonstrations


@dataclasses.dataclass(frozen=True)
class Cloning:
    """The loss and its optimiser."""

    batch_size: int = 32
    """Samples in an update."""

    minibatch_size: int | None = None
    """Samples whose gradients are computed together and accumulated to a batch: less memory, the same result."""

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """Which torch optimiser; Adam alone has the fastest path."""

    learning_rate: float | None = None
    """Step size. None takes the optimiser's own default (0.001 for Adam)."""

    ent_weight: float = 1e-3
    """Weight of the entropy bonus, which keeps the clone from being surer than its data."""

    l2_weight: float = 0.0
    """Weight of the penalty on squared weights."""

    max_grad_norm: float | None = None
    """Longest gradient; longer ones are scaled down to it. None does not clip."""

    net_arch: tuple[int, ...] = (32, 32)
    """Units of each hidden layer."""

    normalize: bool = False
    """Normalise observations by their running mean and variance; worth it when their scales differ."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, …"""


@dataclasses.dataclass(frozen=True)
class Length:
    """How long to train."""

    n_epochs: int | None = None
    """Passes over the data (10 if neither this nor n-batches is given)."""

    n_batches: int | None = None
    """Updates, instead of n-epochs."""

    validation_fraction: float = 0.0
    """Share of the episodes kept apart to measure the loss on unseen data, in [0, 1)."""

    patience: int | None = None
    """Stop after so many epochs without a better validation loss. None goes on to the end."""

    log_interval: int = 500
    """Updates between two points of the learning curve."""


@dataclasses.dataclass(frozen=True)
class TrainBC:
    """Clone an expert's behaviour from demonstrations (behavioural cloning).

    Learns by maximum likelihood to do what the expert did, then compares random actions, expert and clone. Without
    further options an environment with a bundled expert needs nothing else:

        understudy train bc CartPole-v1

    Your own data: a .npz with obs, acts and episode_ends. Look at it first with `understudy inspect PATH`.

        understudy train bc Pendulum-v1 --demonstrations mine.npz
    """

    environment: Environment
    source: DemonstrationSource = dataclasses.field(default_factory=DemonstrationSource)
    expert: Expert = dataclasses.field(default_factory=Expert)
    cloning: Cloning = dataclasses.field(default_factory=Cloning)
    length: Length = dataclasses.field(default_factory=Length)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/bc/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Train, evaluate, report; returns the exit code."""
        path = self.out or default_path("bc", self.environment.env_id)
        with RunFolder(path, verb="train bc", options=self, seed=self.seed) as folder:
            return clone(self, folder, console)


def clone(options: TrainBC, folder: RunFolder, console: Console) -> int:
    """The whole run into ``folder``; 130 if training was interrupted (the clone so far is saved)."""
    from understudy.scripts._metrics import metrics_logger
    from understudy.scripts._training import Seeds, compare_actions, conclude, evaluate_all

    options.evaluation.check()
    if options.length.n_epochs is not None and options.length.n_batches is not None:
        raise ConfigError("one of n-epochs and n-batches", "both", "leave one out")
    seeds = Seeds.spawn(options.seed)
    environment = options.environment
    with environment_closed(environment, seeds.demonstrations) as venv:
        expert = options.expert.load(environment, venv)
        with console.status("recording or reading demonstrations"):
            demos = options.source.load(environment, expert, venv, seeds.demonstrations)
        origin = options.source.demonstrations
        facts = data_facts(demos, "rolled out by the expert" if origin == "expert" else origin)
        folder.save_config(data=facts)
        say(console, "environment", f"[bold]{environment.env_id}[/bold]")
        say(console, "demonstrations", f"{facts['episodes']} episodes, {facts['transitions']} steps, {facts['source']}")

        logger = metrics_logger(folder.path)
        try:
            trainer = _trainer(options, demos, venv, seeds.training, logger)
            interrupted, seconds = _train(options, trainer)
        finally:
            logger.close()
    policy_path = folder.path / "policy" / "policy.safetensors"
    trainer.save_policy(policy_path)
    folder.save_config(policy_sha256=hashlib.sha256(policy_path.read_bytes()).hexdigest())
    results: dict[str, Any] = {"training_seconds": seconds, "training_note": _note(options, interrupted)}
    if interrupted:
        folder.save_config(status="interrupted")
        say(console, "interrupted", f"after {seconds:.1f} s; the clone so far is saved, not evaluated")
        conclude(folder, results, console, {"policy": policy_path})
        return 130
    policies = {"random": None, **({} if expert is None else {"expert": expert}), "clone": trainer.policy}
    results["returns"] = evaluate_all(
        policies, environment, options.evaluation, seeds.evaluation, progress_bar=options.progress_bar
    )
    shown = demos.episode_returns()
    if expert is None and shown is not None and demos.episodes_known:
        row = {"demonstrations": {"returns": shown, "lengths": demos.episode_lengths}}
        results["returns"] = {"random": results["returns"]["random"], **row, "clone": results["returns"]["clone"]}
    results |= compare_actions(trainer.policy, expert, environment, demos, seeds.fresh)
    conclude(folder, results, console, {"policy": policy_path})
    return 0


def _train(options: TrainBC, trainer: Any) -> tuple[bool, float]:
    """Whether Ctrl-C ended it, and the seconds it took."""
    n_epochs = options.length.n_epochs
    if n_epochs is None and options.length.n_batches is None:
        n_epochs = 10
    start = time.perf_counter()
    interrupted = False
    try:
        trainer.train(
            n_epochs=n_epochs,
            n_batches=options.length.n_batches,
            log_interval=options.length.log_interval,
            progress_bar=options.progress_bar,
            validation_fraction=options.length.validation_fraction,
            patience=options.length.patience,
        )
    except KeyboardInterrupt:
        interrupted = True
    return interrupted, time.perf_counter() - start


def _trainer(options: TrainBC, demos: Demonstrations, venv: Any, seed: int, logger: Any) -> Any:
    import numpy as np
    import torch

    from understudy.algorithms.bc import BC

    cloning = options.cloning
    optimizers = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
    }
    lr = {} if cloning.learning_rate is None else {"lr": cloning.learning_rate}
    return BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=np.random.default_rng(seed),
        policy=_policy(cloning, venv, seed),
        demonstrations=demos,
        batch_size=cloning.batch_size,
        minibatch_size=cloning.minibatch_size,
        optimizer_cls=optimizers[cloning.optimizer],
        optimizer_kwargs=lr,
        ent_weight=cloning.ent_weight,
        l2_weight=cloning.l2_weight,
        max_grad_norm=cloning.max_grad_norm,
        device=cloning.device,
        custom_logger=logger,
    )


def _policy(cloning: Cloning, venv: Any, seed: int) -> Any:
    """None, so that BC makes its own, unless the options ask for another network."""
    if cloning.net_arch == (32, 32) and not cloning.normalize:
        return None
    import torch
    from stable_baselines3.common.policies import ActorCriticPolicy

    from understudy.policies.base import NormalizeFeaturesExtractor

    extractor = {"features_extractor_class": NormalizeFeaturesExtractor} if cloning.normalize else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # SB3 initialises from the global generator
        return ActorCriticPolicy(
            venv.observation_space, venv.action_space, lambda _: 1e-3, net_arch=list(cloning.net_arch), **extractor
        )


def _note(options: TrainBC, interrupted: bool) -> str:
    length = options.length
    if interrupted:
        return "interrupted"
    if length.n_batches is not None:
        return f"{length.n_batches} updates of {options.cloning.batch_size} samples"
    return f"{length.n_epochs or 10} epochs, batches of {options.cloning.batch_size}"
