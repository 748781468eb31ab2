"""The options of behavioural cloning, what they may be, and the trainer that they ask for."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from understudy.errors import ConfigError
from understudy.scripts._parts import at_least, option
from understudy.scripts._summary import counted

if TYPE_CHECKING:
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.algorithms.bc import BC
    from understudy.data.demonstrations import Demonstrations

_DEFAULT_EPOCHS = 10
_MAX_UNITS = 16_384
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

    def check(self) -> None:
        """Raise ConfigError for an option out of range, or a device that this machine does not have."""
        from understudy.util.devices import resolve_device

        at_least(1, batch_size=self.batch_size, minibatch_size=self.minibatch_size)
        if self.minibatch_size is not None and self.batch_size % self.minibatch_size:
            raise ConfigError(
                f"--minibatch-size to divide --batch-size {self.batch_size}",
                str(self.minibatch_size),
                "choose a divisor, or leave it out",
            )
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(
                    f"{option(name)} above 0, and finite", str(value), "pass a positive number, or leave it out"
                )
        for name in ("ent_weight", "l2_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{option(name)} of at least 0, and finite", str(value), f"pass {option(name)} 0")
        if any(not 1 <= units <= _MAX_UNITS for units in self.net_arch):
            raise ConfigError(
                f"--net-arch of layers with 1 to {_MAX_UNITS:,} units",
                " ".join(map(str, self.net_arch)),
                "write for example --net-arch 64 64",
            )
        resolve_device(self.device)


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

    def check(self) -> None:
        """Raise ConfigError for options out of range or at odds with each other."""
        if self.n_epochs is not None and self.n_batches is not None:
            raise ConfigError("one of --n-epochs and --n-batches", "both", "leave one out")
        at_least(1, n_epochs=self.n_epochs, n_batches=self.n_batches)
        at_least(1, patience=self.patience, log_interval=self.log_interval)
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                "--validation-fraction in [0, 1)",
                str(self.validation_fraction),
                "hold out a tenth of the episodes: --validation-fraction 0.1",
            )
        if self.patience is not None and not self.validation_fraction:
            raise ConfigError(
                "--validation-fraction above 0 with --patience",
                "--patience without held-out episodes",
                "add --validation-fraction 0.1, or leave --patience out",
            )

    @property
    def epochs(self) -> int | None:
        """Passes over the data; None if updates are counted instead."""
        return _DEFAULT_EPOCHS if self.n_epochs is None and self.n_batches is None else self.n_epochs

    def interval(self, n_transitions: int, batch_size: int) -> int:
        """Updates between two points of the learning curve."""
        if self.log_interval is not None:
            return self.log_interval
        n_batches = self.n_batches or (self.epochs or 1) * -(-n_transitions // batch_size)
        return max(1, min(500, n_batches // 60))

    def note(self, batch_size: int, n_epochs: int | None) -> str:
        """How long it was, in words; ``n_epochs`` were made, None if it was interrupted."""
        if n_epochs is None:
            return "interrupted"
        if self.n_batches is not None:
            return f"{counted(self.n_batches, 'update')} of {counted(batch_size, 'sample')}"
        early = f" of {self.epochs}" if n_epochs != self.epochs else ""
        return f"{counted(n_epochs, 'epoch') if not early else f'{n_epochs}{early} epochs'}, batches of {batch_size}"


def make_trainer(cloning: Cloning, demos: Demonstrations | None, venv: VecEnv, seed: int) -> BC:
    """A trainer as the options say, logging nowhere; None for demonstrations that come later."""
    import numpy as np
    import torch

    from understudy.algorithms.bc import BC
    from understudy.scripts._metrics import silent_logger

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
    from understudy.util.image_spaces import channels_first
    from understudy.util.seeding import torch_seeded

    space = channels_first(venv.observation_space)
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
