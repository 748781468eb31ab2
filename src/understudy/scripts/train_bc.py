"""``understudy train bc``: clone an expert, or a dataset, and show how well that went."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import ConfigError
from understudy.scripts._parts import (
    Compute,
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
    from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.algorithms.bc import BC
    from understudy.data.demonstrations import Demonstrations
    from understudy.scripts._training import Seeds

_DEFAULT_EPOCHS = 10
_DEFAULT_NET = (32, 32)  # FeedForward32Policy's


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

    net_arch: tuple[int, ...] = _DEFAULT_NET
    """Units of each hidden layer; for images, those behind the convolutional network."""

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

    log_interval: int | None = None
    """Updates between two points of the learning curve. None: 500, or less where that gives fewer than 60 points."""


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
    compute: Compute = dataclasses.field(default_factory=Compute)

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/bc/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Train, evaluate, report; returns the exit code."""
        path = self.out or default_path("bc", self.environment.env_id)
        return clone(self, RunFolder(path, verb="train bc", options=self, seed=self.seed), console)


def clone(options: TrainBC, folder: RunFolder, console: Console) -> int:
    """The whole run into ``folder``, which is made when options and data have proved usable.

    Returns:
        0, or 130 if training was interrupted; the clone so far is saved then.
    """
    from understudy.scripts._training import Seeds

    options.evaluation.check()
    if options.length.n_epochs is not None and options.length.n_batches is not None:
        raise ConfigError("one of n-epochs and n-batches", "both", "leave one out")
    seeds = Seeds.spawn(options.seed)
    environment = options.environment
    say(console, "environment", f"[bold]{environment.env_id}[/bold]")
    with environment_closed(environment, seeds.demonstrations) as venv, options.compute.limited(venv):
        expert = options.expert.load(environment, venv)
        with console.status("recording or reading demonstrations"):
            demos = options.source.load(environment, expert, venv, seeds.demonstrations)
        origin = options.source.demonstrations
        facts = data_facts(demos, "rolled out by the expert" if origin == "expert" else origin)
        say(console, "demonstrations", f"{facts['episodes']} episodes, {facts['transitions']} steps, {facts['source']}")
        trainer = _trainer(options, demos, venv, seeds.training)
        with folder:
            folder.save_config(data=facts)
            return _train_and_show(options, trainer, expert, demos, seeds, folder, console)


def _train_and_show(
    options: TrainBC,
    trainer: BC,
    expert: BasePolicy | None,
    demos: Demonstrations,
    seeds: Seeds,
    folder: RunFolder,
    console: Console,
) -> int:
    from understudy.scripts._metrics import metrics_logger
    from understudy.scripts._training import compare_actions, conclude, evaluate_all

    trainer.logger = logger = metrics_logger(folder.path)
    try:
        interrupted, seconds = _train(options, trainer, len(demos))
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
    returns = evaluate_all(
        policies, options.environment, options.evaluation, seeds.evaluation, progress_bar=options.progress_bar
    )
    shown = demos.episode_returns()
    if expert is None and shown is not None and demos.episodes_known:
        row = {"returns": shown, "lengths": demos.episode_lengths}
        returns = {"random": returns["random"], "demonstrations": row, "clone": returns["clone"]}
    actions = compare_actions(trainer.policy, expert, options.environment, demos, seeds.fresh)
    conclude(folder, {**results, "returns": returns, **actions}, console, {"policy": policy_path})
    return 0


def _train(options: TrainBC, trainer: BC, n_transitions: int) -> tuple[bool, float]:
    """Whether Ctrl-C ended it, and the seconds it took."""
    start = time.perf_counter()
    interrupted = False
    try:
        trainer.train(
            n_epochs=_n_epochs(options.length),
            n_batches=options.length.n_batches,
            log_interval=_log_interval(options, n_transitions),
            progress_bar=options.progress_bar,
            validation_fraction=options.length.validation_fraction,
            patience=options.length.patience,
        )
    except KeyboardInterrupt:
        interrupted = True
    return interrupted, time.perf_counter() - start


def _trainer(options: TrainBC, demos: Demonstrations, venv: VecEnv, seed: int) -> BC:
    import numpy as np
    import torch

    from understudy.algorithms.bc import BC
    from understudy.scripts._metrics import silent_logger

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
        demonstrations=demos,  # the door passes its own type through
        batch_size=cloning.batch_size,
        minibatch_size=cloning.minibatch_size,
        optimizer_cls=optimizers[cloning.optimizer],
        optimizer_kwargs=lr,
        ent_weight=cloning.ent_weight,
        l2_weight=cloning.l2_weight,
        max_grad_norm=cloning.max_grad_norm,
        device=cloning.device,
        custom_logger=silent_logger(),
    )


def _policy(cloning: Cloning, venv: VecEnv, seed: int) -> ActorCriticPolicy | None:
    """None, so that BC makes its own, unless options or image observations ask for another network."""
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN

    from understudy.errors import UnsupportedSpaceError
    from understudy.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
    from understudy.policies.serialize import channels_first
    from understudy.util.seeding import torch_seeded

    space = channels_first(venv.observation_space) or venv.observation_space
    images = is_image_space(space)
    extractor: type[BaseFeaturesExtractor] = NatureCNN if images else FlattenExtractor
    if isinstance(space, spaces.Dict):
        extractor = CombinedExtractor
    if cloning.normalize:
        if extractor is not FlattenExtractor:
            raise UnsupportedSpaceError("plain observations with --normalize", str(space), "leave --normalize out")
        extractor = NormalizeFeaturesExtractor
    if cloning.net_arch == _DEFAULT_NET and not cloning.normalize and not images:
        return None
    import numpy as np

    with torch_seeded(np.random.default_rng(seed)):  # SB3 draws initial weights from the global generator
        return FeedForward32Policy(
            space,
            venv.action_space,
            lambda _: 1e-3,
            net_arch=list(cloning.net_arch),
            features_extractor_class=extractor,
        )


def _n_epochs(length: Length) -> int | None:
    return _DEFAULT_EPOCHS if length.n_epochs is None and length.n_batches is None else length.n_epochs


def _log_interval(options: TrainBC, n_transitions: int) -> int:
    if options.length.log_interval is not None:
        return options.length.log_interval
    n_batches = options.length.n_batches
    if n_batches is None:
        n_batches = (_n_epochs(options.length) or 1) * -(-n_transitions // options.cloning.batch_size)
    return max(1, min(500, n_batches // 60))


def _note(options: TrainBC, interrupted: bool) -> str:
    length = options.length
    if interrupted:
        return "interrupted"
    if length.n_batches is not None:
        return f"{length.n_batches} updates of {options.cloning.batch_size} samples"
    return f"{_n_epochs(length)} epochs, batches of {options.cloning.batch_size}"
