"""Parts that several verbs share: where to act, what to use of the machine, how to evaluate.

Each is a frozen dataclass whose fields are command-line options; the text below a field is its help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from understudy.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.algorithms.checkpoints import Checkpoints
    from understudy.evaluation.returns import EpisodeReturns


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where policies act."""

    env_id: Positional[Annotated[str, arg(metavar="ENV-ID")]]
    """Id of a registered Gymnasium environment, such as CartPole-v1, or package:Name-v0."""

    n_envs: int = 8
    """Copies of the environment that are stepped together."""

    max_episode_steps: int | None = None
    """Time limit of an episode in steps. None keeps the environment's own."""

    def check(self) -> None:
        """Raise ConfigError for an option out of range or an id that nothing is registered under."""
        from understudy.util.vec_env import resolve_spec

        at_least(1, n_envs=self.n_envs, max_episode_steps=self.max_episode_steps)
        at_most(10_000, n_envs=self.n_envs)
        try:
            resolve_spec(self.env_id)
        except ConfigError as error:
            import gymnasium as gym

            near = nearest(self.env_id, gym.registry)
            if near is None or ":" in self.env_id:
                raise
            raise ConfigError(error.expected, repr(self.env_id), f"did you mean {near}?") from error

    def make(self, seed: int) -> VecEnv:
        """New environments whose every source of chance follows ``seed``."""
        import numpy as np

        from understudy.util.vec_env import make_vec_env

        self.check()
        return make_vec_env(
            self.env_id,
            rng=np.random.default_rng(seed),
            n_envs=self.n_envs,
            max_episode_steps=self.max_episode_steps,
        )


@dataclasses.dataclass(frozen=True)
class Compute:
    """What the run may use of the machine."""

    threads: int | None = None
    """CPU threads of torch; results depend on it. None: one (quickest for small networks), or all for images."""

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        at_least(1, threads=self.threads)
        at_most(1_024, threads=self.threads)

    @contextlib.contextmanager
    def limited(self, venv: VecEnv) -> Iterator[None]:
        """Torch with so many threads, and with as many as before afterwards."""
        import torch
        from gymnasium import spaces

        self.check()
        space = venv.observation_space
        parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
        images = any(len(part.shape or ()) >= 3 for part in parts)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or (before if images else 1))
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How returns are measured."""

    n_eval_episodes: int = 100
    """Episodes each policy is evaluated for."""

    deterministic: bool = True
    """Take the most probable action when evaluating; sample if not."""

    def check(self) -> None:
        """Raise ConfigError now rather than after the training."""
        at_least(1, n_eval_episodes=self.n_eval_episodes)

    def returns(self, policy: Any, environment: Environment, seed: int, *, progress_bar: bool) -> EpisodeReturns:
        """Returns in fresh environments; None as policy acts at random."""
        from understudy.evaluation.returns import evaluate_returns

        with environment_closed(environment, seed) as venv:
            return evaluate_returns(
                policy,
                venv,
                n_episodes=self.n_eval_episodes,
                seed=seed,
                deterministic=self.deterministic,
                progress_bar=progress_bar,
            )


@dataclasses.dataclass(frozen=True)
class Saving:
    """What is saved while training, for --resume."""

    checkpoint_every: int = 5_000
    """Updates between two checkpoints: what a kill can lose. Part of the run, as each is a fresh seed."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        at_least(1, checkpoint_every=self.checkpoint_every, keep_checkpoints=self.keep_checkpoints)

    def checkpoints(self, folder: Path, *, allow_other_threads: bool) -> Checkpoints:
        """What the trainer's ``train`` takes."""
        from understudy.algorithms.checkpoints import Checkpoints

        return Checkpoints(
            folder,
            every=self.checkpoint_every,
            keep=self.keep_checkpoints,
            resume=True,
            allow_other_threads=allow_other_threads,
        )


@contextlib.contextmanager
def environment_closed(environment: Environment, seed: int) -> Iterator[VecEnv]:
    """Environments that are closed afterwards, whatever happens."""
    venv = environment.make(seed)
    try:
        yield venv
    finally:
        venv.close()


def say(console: Console, label: str, text: str) -> None:
    """One aligned line of what is going on."""
    console.print(f"[dim]{label:<15}[/dim] {text}", highlight=False, soft_wrap=True)


def check_seed(seed: int | None) -> None:
    """Raise ConfigError for a seed that no generator takes."""
    at_least(0, seed=seed)


def at_least(low: float, **options: float | None) -> None:
    """Raise ConfigError, with the option's name as it is typed, for the first below ``low``; None passes."""
    for name, value in options.items():
        if value is not None and not value >= low:
            raise ConfigError(f"{option(name)} of at least {low}", str(value), f"pass {option(name)} {low} or more")


def absolute_if_a_path(text: str) -> str:
    """An absolute path where ``text`` leads to something here; else the text, which is a name."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def at_most(high: float, **options: float | None) -> None:
    """Raise ConfigError, with the option's name as it is typed, for the first above ``high``; None passes."""
    for name, value in options.items():
        if value is not None and value > high:
            raise ConfigError(
                f"{option(name)} of at most {high:,}", f"{value:,}", f"pass {option(name)} {high} or less"
            )


def option(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def assignment(text: str) -> tuple[str, Any]:
    """Name and value of ``name=value``; the value in JSON, or else a text.

    Raises:
        ConfigError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError("--set NAME=VALUE", repr(text), "write for example --set n_steps=256 gamma=0.99")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice that was probably meant, whatever its capitals; None if nothing is near."""
    lowered: dict[str, str] = {}
    for choice in choices:
        lowered[choice.lower()] = choice  # the last of several: registries list versions in rising order
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[close[0]] if close else None
