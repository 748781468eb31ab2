"""Every public way into the library for a file, by name: each takes a path and reads all that is there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from tools.formats import policy
from understudy.algorithms import bc
from understudy.data import serialize as data
from understudy.data.demonstrations import Demonstrations, as_demonstrations
from understudy.data.inspection import inspect_demonstrations
from understudy.errors import UnderstudyError
from understudy.policies import serialize as policies
from understudy.policies.vec_normalize import load_vec_normalize
from understudy.policies.weights import load_weights
from understudy.rewards.serialize import load_reward_net
from understudy.scripts import cli
from understudy.util import checkpoint
from understudy.util.logger import HierarchicalLogger

Loader = Callable[[Path], object]


class _Still(gym.Env[np.ndarray, Any]):
    """Spaces only."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = action_space

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(3, np.float32), 0.0, False, False, {}


def _venv(action_space: gym.Space[Any]) -> VecEnv:
    return DummyVecEnv([lambda: _Still(action_space)])


DISCRETE = _venv(gym.spaces.Discrete(2))
CONTINUOUS = _venv(gym.spaces.Box(-1.0, 1.0, (1,), np.float32))


def _every_value(path: Path, load: Callable[[Path], Any]) -> None:
    """Infos are decoded when they are looked at."""
    for trajectory in load(path):
        for info in [] if trajectory.infos is None else trajectory.infos:
            dict(info)


def _as_demonstrations(path: Path) -> None:
    found = as_demonstrations(path)
    assert isinstance(found, Demonstrations)
    np.asarray(found.acts).sum()


def _command_line(*args: str) -> Loader:
    """The command with the path in place of ``PATH``; its refusals, three parts and exit code 2, are raised again."""

    def run(path: Path) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main([part.replace("PATH", str(path)) for part in args])
            except SystemExit as left:
                raise CommandLineError(f"usage: {err.getvalue()}") from left
        said = " ".join(err.getvalue().split())
        if code == 2 and said.startswith("error expected "):
            raise RefusedError(said)
        if code not in (0, 1):
            raise CommandLineError(f"code {code}: {said}")

    return run


class CommandLineError(RuntimeError):
    """The command ended otherwise than by 0, 1 or a refusal."""


class RefusedError(UnderstudyError):
    """A loader that says by other means that it refuses the file."""

    def __init__(self, text: str) -> None:
        super().__init__("a file of that kind", text, "use another")


def _newest(path: Path) -> None:
    """As resuming does."""
    newest = checkpoint.latest(path)
    if newest is None:
        raise RefusedError("no checkpoint")
    checkpoint.read_checkpoint(newest)


def _trainer(path: Path) -> None:
    """In the end it is asked to go on learning: what stands in the file is used then."""
    obs = np.zeros((8, 3), np.float32)
    trainer = bc.BC.load(path, {"obs": obs, "acts": np.zeros(8, np.int64)}, device="cpu", custom_logger=QUIET)
    trainer.train(n_batches=1, progress_bar=False)


def _normalizer(path: Path) -> None:
    load_vec_normalize(path, DISCRETE)


def _weights(path: Path) -> None:
    load_weights(policy(0), path)


QUIET = HierarchicalLogger(Logger(None, []))

DATA: dict[str, Loader] = {
    "data.serialize.load": partial(_every_value, load=data.load),
    "data.serialize.load(verify=False)": partial(_every_value, load=partial(data.load, verify=False)),
    "data.serialize.load_with_rewards": partial(_every_value, load=data.load_with_rewards),
    "as_demonstrations": _as_demonstrations,
    "inspect_demonstrations": inspect_demonstrations,
    "understudy inspect": _command_line("inspect", "PATH"),
    "understudy inspect --json": _command_line("inspect", "PATH", "--json"),
}
POLICIES: dict[str, Loader] = {
    "load_saved_policy": partial(policies.load_saved_policy, device="cpu"),
    "bc.reconstruct_policy": partial(bc.reconstruct_policy, device="cpu"),
    "load_weights": _weights,
    "load_vec_normalize": _normalizer,
    "load_reward_net": partial(load_reward_net, device="cpu"),
    **{
        f"load_policy({name!r})": partial(
            lambda path, name, venv: policies.load_policy(name, venv, path=path, device="cpu"),
            name=name,
            venv=DISCRETE if name in ("ppo", "a2c", "dqn") else CONTINUOUS,
        )
        for name in ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")
    },
    **{
        f"load_stable_baselines_model({cls.__name__})": partial(
            lambda path, cls, venv: policies.load_stable_baselines_model(cls, path, venv), cls=cls, venv=venv
        )
        for cls, venv in ((PPO, DISCRETE), (DQN, DISCRETE), (SAC, CONTINUOUS), (TD3, CONTINUOUS), (DDPG, CONTINUOUS))
    },
    "understudy evaluate": _command_line(
        "evaluate", "CartPole-v1", "--policy", "PATH", "--n-eval-episodes", "1", "--no-progress-bar"
    ),
}
CHECKPOINTS: dict[str, Loader] = {
    "read_checkpoint": checkpoint.read_checkpoint,
    "checkpoint.latest": _newest,
    "BC.load": _trainer,
    "understudy train bc --resume": _command_line("train", "bc", "--resume", "PATH", "--no-progress-bar"),
}
LOADERS: dict[str, Loader] = {**DATA, **POLICIES, **CHECKPOINTS}
