"""``understudy train rl``: train an expert with reinforcement learning, from a recipe."""

from __future__ import annotations

import dataclasses
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from understudy.errors import ConfigError, UnderstudyError
from understudy.scripts._parts import (
    Compute,
    Environment,
    Evaluation,
    assignment,
    at_least,
    check_seed,
    environment_closed,
    say,
)
from understudy.scripts._run_folder import RunFolder, default_path

if TYPE_CHECKING:
    from rich.console import Console
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.rl.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class TrainRL:
    """Train an expert with reinforcement learning.

    An environment with a preset (CartPole-v1, Pendulum-v1, seals/CartPole-v0) is trained with its tuned settings;
    options given here replace them one by one. Any other environment needs --algo and --total-timesteps.

        understudy train rl CartPole-v1
        understudy train rl Acrobot-v1 --algo ppo --total-timesteps 200000 --set n_steps=256 gamma=0.99
    """

    env_id: Positional[Annotated[str | None, arg(metavar="ENV-ID")]] = None
    """Id of the environment. None takes the preset's."""

    preset: str | None = None
    """Name of a preset: cartpole, seals_cartpole, pendulum. None takes the one of the environment, if there is one."""

    algo: Literal["ppo", "a2c", "sac", "td3", "ddpg", "dqn"] | None = None
    """Which Stable-Baselines3 algorithm."""

    total_timesteps: int | None = None
    """Steps of the environment, summed over its copies."""

    n_envs: int | None = None
    """Copies of the environment that are stepped together."""

    policy: str | None = None
    """MlpPolicy, CnnPolicy, MultiInputPolicy, or FeedForward32Policy."""

    set: tuple[str, ...] = ()
    """Further arguments of the algorithm as name=value, values in JSON; linear:0.001 is a schedule falling to 0."""

    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)

    seed: int | None = None
    """Decides everything random in this run. None takes the preset's."""

    out: Path | None = None
    """Run folder. None makes output/rl/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def recipe(self) -> Recipe:
        """Preset and options together.

        Raises:
            ConfigError: neither a preset nor enough options.
        """
        from understudy.rl.recipes import PRESETS, Recipe, get_recipe

        known = {recipe.env_id for recipe in PRESETS.values()}
        changes = {
            name: getattr(self, name)
            for name in ("env_id", "algo", "total_timesteps", "n_envs", "policy", "seed")
            if getattr(self, name) is not None
        }
        hyperparameters = dict(map(assignment, self.set))
        if self.preset is not None or self.env_id in known:
            base = get_recipe(self.preset or str(self.env_id))
            if self.algo in (None, base.algo):
                merged = {**base.hyperparameters, **hyperparameters}
                return dataclasses.replace(base, **changes, hyperparameters=merged)
        if self.env_id is None or self.algo is None or self.total_timesteps is None:
            raise ConfigError(
                f"an environment with a preset ({', '.join(sorted(known))}), or --algo and --total-timesteps",
                f"environment {self.env_id}, algo {self.algo}, total_timesteps {self.total_timesteps}",
                "for example: understudy train rl Acrobot-v1 --algo ppo --total-timesteps 200000",
            )
        return Recipe(**changes, hyperparameters=hyperparameters)

    def run(self, console: Console) -> int:
        """Train, evaluate, report; returns the exit code."""
        check_seed(self.seed)
        at_least(1, total_timesteps=self.total_timesteps, n_envs=self.n_envs)
        self.evaluation.check()
        self.compute.check()
        recipe = self.recipe()
        path = self.out or default_path("rl", recipe.env_id)
        folder = RunFolder(path, verb="train rl", options=self, seed=recipe.seed)
        environment = Environment(env_id=recipe.env_id, n_envs=recipe.n_envs)
        with environment_closed(environment, 0) as venv, self.compute.limited(venv):
            _check_hyperparameters(recipe, venv)
            return _train(self, recipe, folder, console)


def _train(options: TrainRL, recipe: Recipe, folder: RunFolder, console: Console) -> int:
    from understudy.policies.serialize import save_stable_model
    from understudy.rl.training import train_recipe
    from understudy.scripts._metrics import MetricsCallback
    from understudy.scripts._training import Seeds, conclude, evaluate_all

    say(console, "environment", f"[bold]{recipe.env_id}[/bold]")
    say(console, "learner", f"{recipe.algo.upper()}, {recipe.total_timesteps} steps in {recipe.n_envs} environments")
    with folder:
        folder.save_config(recipe=recipe.to_dict(), options={**folder.config["options"], "env_id": recipe.env_id})
        metrics = MetricsCallback(folder.path / "metrics.jsonl")
        start = time.perf_counter()
        interrupted = False
        try:
            train_recipe(recipe, progress_bar=options.progress_bar, callback=metrics)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            metrics.close()
        seconds = time.perf_counter() - start
        results: dict[str, Any] = {
            "training_seconds": seconds,
            "training_note": f"{recipe.algo.upper()}, {recipe.total_timesteps} steps",
        }
        if metrics.model is None:  # interrupted before the first step: nothing to save
            raise KeyboardInterrupt
        model = metrics.model
        save_stable_model(folder.path / "policies" / "final", model)
        paths = {"policy": folder.path / "policies" / "final"}
        if interrupted:
            folder.save_config(status="interrupted")
            say(console, "interrupted", f"after {model.num_timesteps} steps; the policy so far is saved, not evaluated")
            conclude(folder, results, console, paths)
            return 130
        environment = Environment(env_id=recipe.env_id, n_envs=recipe.n_envs)
        results["returns"] = evaluate_all(
            {"random": None, "policy": model.policy},
            environment,
            options.evaluation,
            Seeds.spawn(recipe.seed).evaluation,
            progress_bar=options.progress_bar,
        )
        conclude(folder, results, console, paths)
        return 0


def _check_hyperparameters(recipe: Recipe, venv: VecEnv) -> None:
    """Raise ConfigError for what the algorithm's constructor refuses, before there is a folder."""
    from understudy.rl.training import build_learner

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the learner that is trained will say them
            build_learner(recipe, venv)
    except UnderstudyError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"arguments that {recipe.algo.upper()} takes",
            f"{type(error).__name__}: {error}",
            "correct --set; the arguments are those of the Stable-Baselines3 class",
        ) from error
