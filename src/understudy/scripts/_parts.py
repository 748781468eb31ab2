"""Parts that several verbs share: where to act, who the expert is, what was demonstrated, how to evaluate.

Each is a frozen dataclass whose fields are command-line options; the text below a field is its help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from understudy.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.data.demonstrations import Demonstrations
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

    def make(self, seed: int) -> VecEnv:
        """New environments whose every source of chance follows ``seed``."""
        import numpy as np

        from understudy.util.vec_env import make_vec_env

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

    @contextlib.contextmanager
    def limited(self, venv: VecEnv) -> Iterator[None]:
        """Torch with so many threads, and with as many as before afterwards."""
        import torch
        from gymnasium import spaces

        if self.threads is not None and self.threads < 1:
            raise ConfigError("threads of at least 1", str(self.threads), "leave the option out")
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
class Expert:
    """Who shows how it is done."""

    expert: str = "auto"
    """"auto" (bundled, if this environment has one), "bundled", "none", or the path of a policy or run folder."""

    def load(self, environment: Environment, venv: VecEnv) -> BasePolicy | None:
        """The expert, or None if there is none to be had."""
        if self.expert == "none":
            return None
        if self.expert == "auto":
            from understudy.policies.serialize import bundled_experts

            return load_any_policy("bundled", venv, environment) if environment.env_id in bundled_experts() else None
        return load_any_policy(self.expert, venv, environment)


@dataclasses.dataclass(frozen=True)
class DemonstrationSource:
    """What to learn from."""

    demonstrations: str = "expert"
    """"expert" (roll it out), or the path of a dataset, or of a .npz with obs and acts (and episode_ends or dones)."""

    n_demonstrations: int | None = None
    """Episodes to roll out (50 if not given), or to take from the start of the dataset (all if not given)."""

    def load(self, environment: Environment, expert: BasePolicy | None, venv: VecEnv, seed: int) -> Demonstrations:
        """Roll out or read, checked against the environment's spaces.

        Raises:
            ConfigError: no expert to roll out.
            DataError: no such path, or not as many episodes as asked for.
        """
        from understudy.data.demonstrations import read_demonstrations

        if self.n_demonstrations is not None and self.n_demonstrations < 1:
            raise ConfigError("n_demonstrations of at least 1", str(self.n_demonstrations), "ask for one or more")
        spaces = {"observation_space": venv.observation_space, "action_space": venv.action_space}
        if self.demonstrations == "expert":
            if expert is None:
                raise ConfigError(
                    "demonstrations, or an expert to record some of",
                    f"neither for {environment.env_id}",
                    "pass --demonstrations PATH or --expert PATH (understudy train rl trains one)",
                )
            n = 50 if self.n_demonstrations is None else self.n_demonstrations
            return read_demonstrations(record(expert, venv, n, seed), **spaces)
        if not Path(self.demonstrations).exists():
            raise DataError(
                "the path of demonstrations that exists",
                self.demonstrations,
                "check the path; understudy rollout records a dataset",
            )
        demos = read_demonstrations(self.demonstrations, **spaces)
        return demos if self.n_demonstrations is None else first_episodes(demos, self.n_demonstrations)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How returns are measured."""

    n_eval_episodes: int = 100
    """Episodes each policy is evaluated for."""

    deterministic: bool = True
    """Take the most probable action when evaluating; sample if not."""

    def check(self) -> None:
        """Raise ConfigError now rather than after the training."""
        if self.n_eval_episodes < 1:
            raise ConfigError("n_eval_episodes of at least 1", str(self.n_eval_episodes), "100 give useful intervals")

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


@contextlib.contextmanager
def environment_closed(environment: Environment, seed: int) -> Iterator[VecEnv]:
    """Environments that are closed afterwards, whatever happens."""
    venv = environment.make(seed)
    try:
        yield venv
    finally:
        venv.close()


def load_any_policy(spec: str, venv: VecEnv, environment: Environment) -> BasePolicy:
    """The policy a user means: "bundled", "random", "zero", or the path of a file or run folder.

    Raises:
        ConfigError: neither a known name nor a path that holds a policy.
        SpaceMismatchError: made for other spaces.
    """
    from understudy.errors import SpaceMismatchError
    from understudy.policies.serialize import load_policy, load_saved_policy

    if spec == "bundled":
        return load_policy("bundled", venv, env_name=environment.env_id, device="cpu")
    if spec in ("random", "zero"):
        return load_policy(spec, venv)
    path = find_policy(Path(spec))
    policy = load_saved_policy(path, device="cpu")
    if not (_same(policy.observation_space, venv.observation_space) and policy.action_space == venv.action_space):
        raise SpaceMismatchError(
            f"a policy for {environment.env_id}: {venv.observation_space}, {venv.action_space}",
            f"{path} for {policy.observation_space}, {policy.action_space}",
            "name the environment the policy was made for",
        )
    return policy


def find_policy(path: Path) -> Path:
    """The policy's file: the path itself, or the one in a folder of a model or of a run.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        return path
    for inside in ("policy.safetensors", "policy/policy.safetensors", "policies/final/policy.safetensors"):
        if (path / inside).is_file():
            return path / inside
    raise ConfigError(
        'a policy: "bundled", "random", "zero", or the path of a saved policy or run folder',
        str(path) if path.exists() else f"{path}, which does not exist",
        "check the path; runs of `understudy train` write policy/policy.safetensors",
    )


def record(policy: BasePolicy | None, venv: VecEnv, n_episodes: int, seed: int, *, deterministic: bool = True) -> Any:
    """Exactly ``n_episodes`` trajectories with rewards."""
    import numpy as np

    from understudy.data import rollout

    trajectories = rollout.rollout(
        policy,
        venv,
        rollout.make_sample_until(min_episodes=n_episodes),
        np.random.default_rng(seed),
        verbose=False,
        deterministic_policy=deterministic and policy is not None,
    )
    return list(trajectories)[:n_episodes]


def first_episodes(demos: Demonstrations, n: int) -> Demonstrations:
    """The first ``n`` episodes.

    Raises:
        DataError: there are fewer.
    """
    import numpy as np

    from understudy.data.demonstrations import read_demonstrations

    if n > demos.n_episodes:
        unknown = "" if demos.episodes_known else " (the data does not say where episodes end)"
        raise DataError(
            f"at least {n} episodes, as asked for by n_demonstrations",
            f"{demos.n_episodes}{unknown}",
            "ask for fewer, or leave the option out for all",
        )
    rows = demos.rows_of_episodes(np.arange(n))
    columns = {name: getattr(demos, name) for name in ("next_obs", "dones", "truncated", "rews", "weights")}
    arrays = {name: column[rows] for name, column in columns.items() if column is not None}
    ends = demos.episode_offsets[1 : n + 1]
    return read_demonstrations({"obs": demos.obs[rows], "acts": demos.acts[rows], "episode_ends": ends, **arrays})


def data_facts(demos: Demonstrations, source: str) -> dict[str, Any]:
    """What a run folder says about its data: size, origin, and SHA-256 over dtypes, shapes and bytes."""
    from understudy.data.inspection import observations

    digest = hashlib.sha256()
    arrays: dict[str, np.ndarray | None] = {**observations(demos), "acts": demos.acts, "rews": demos.rews}
    for name, array in {**arrays, "episode_offsets": demos.episode_offsets}.items():
        if array is not None:
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            for start in range(0, len(array), 65536):  # a memory map larger than RAM is hashed piece by piece
                digest.update(array[start : start + 65536].tobytes())
    return {
        "source": source,
        "episodes": demos.n_episodes,
        "transitions": len(demos),
        "sha256": digest.hexdigest(),
    }


def say(console: Console, label: str, text: str) -> None:
    """One aligned line of what is going on."""
    console.print(f"[dim]{label:<15}[/dim] {text}", highlight=False, soft_wrap=True)


def _same(saved: Any, current: Any) -> bool:
    """Equal, or the channels-first form of the environment's images."""
    from understudy.policies import serialize

    return bool(saved == current or saved == serialize.channels_first(current))
