"""Processes give what a loop in one process gives, to the bit; and what ``SubprocVecEnv`` can do still works."""

from __future__ import annotations

import functools
import os
import pickle
import select
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from faults.tools.misbehaving_env import Misbehaving
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from understudy.data import rollout
from understudy.errors import ConfigError, EnvCrashedError
from understudy.util import vec_env
from understudy.util.guarded_vec_env import GuardedSubprocVecEnv
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.vec_env import make_vec_env

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which is quicker here than starting interpreters"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),  # Python ≥ 3.12, where threads have started
]


class DictEnv(gym.Env[Any, Any]):
    """Gives float64 where its space says float32, as many do."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "gear": spaces.Discrete(5),
        }
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def _obs(self) -> dict[str, Any]:
        draw = self.np_random
        return {
            "image": draw.integers(0, 256, (4, 4, 1), dtype=np.uint8),
            "speed": draw.normal(size=2),
            "gear": draw.integers(5),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        return self._obs(), self.np_random.random(), bool(self.np_random.random() < 0.2), False, {}


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = functools.partial(GuardedSubprocVecEnv, start_method="fork")
    monkeypatch.setattr(vec_env, "GuardedSubprocVecEnv", quick)
    if "OneDict-v0" not in gym.registry:
        gym.register("OneDict-v0", DictEnv, disable_env_checker=True)  # it warns of that float64


def assert_same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert_same(mine[key], theirs[key])
    else:
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.fault("F25")
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "OneDict-v0"])
def test_steps_are_those_of_one_process(name, forked):
    loop, processes = (
        make_vec_env(name, rng=np.random.default_rng(4), n_envs=3, parallel=parallel) for parallel in (False, True)
    )
    assert isinstance(processes, SubprocVecEnv)
    actions = loop.action_space
    actions.seed(0)
    for seed in (None, 7):
        if seed is not None:
            loop.seed(seed)
            processes.seed(seed)
        assert_same(processes.reset(), loop.reset())
        for _ in range(40):
            acts = np.array([actions.sample() for _ in range(3)])
            (obs, rews, dones, infos), expected = processes.step(acts), loop.step(acts)
            assert_same(obs, expected[0])
            assert_same(rews, expected[1])
            assert_same(dones, expected[2])
            assert isinstance(infos, list)
            for info, other in zip(infos, expected[3], strict=True):
                assert info.keys() == other.keys()
                assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
                if "episode" in info:  # Monitor's clock differs
                    assert {k: info["episode"][k] for k in "rl"} == {k: other["episode"][k] for k in "rl"}
    processes.close()
    loop.close()


@pytest.mark.fault("F25")
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "OneDict-v0"])
def test_rollouts_are_those_of_one_process(name, forked):
    sets = []
    for parallel in (False, True):
        venv = make_vec_env(name, rng=np.random.default_rng(4), n_envs=2, parallel=parallel)
        sets.append(rollout.rollout(None, venv, rollout.make_min_episodes(5), np.random.default_rng(5)))
        venv.close()
    assert len(sets[0]) == len(sets[1]) >= 5
    for mine, theirs in zip(*sets, strict=True):
        for field in ("acts", "rews"):
            assert_same(getattr(mine, field), getattr(theirs, field))
        obs = [getattr(t.obs, "unwrap", lambda t=t: t.obs)() for t in (mine, theirs)]
        assert_same(*obs)
        assert (mine.terminal, mine.truncated) == (theirs.terminal, theirs.truncated)


@pytest.mark.fault("F25")
def test_learning_is_that_of_one_process(forked):
    def learn(parallel: bool) -> torch.Tensor:
        venv: VecEnv = make_vec_env("Pendulum-v1", rng=np.random.default_rng(1), n_envs=2, parallel=parallel)
        venv = VecNormalize(venv)
        model = PPO("MlpPolicy", venv, n_steps=128, n_epochs=2, seed=0, device="cpu").learn(512)
        venv.close()
        return torch.nn.utils.parameters_to_vector(model.policy.parameters())

    assert torch.equal(learn(True), learn(False))


@pytest.mark.parametrize("method", [None, "spawn"])
def test_other_ways_to_start(method):
    fns = [Misbehaving("raise", at_step=2), functools.partial(gym.Wrapper, Misbehaving()())]
    venv = GuardedSubprocVecEnv(fns, method, step_timeout=30)
    assert venv.reset().tolist() == [[0, 0], [0, 0]]
    assert venv.step(np.zeros(2, int))[0].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(EnvCrashedError, match="the floor is missing") as error:
        venv.step(np.zeros(2, int))
    assert (error.value.index, error.value.step) == (0, 2)
    venv.close()
    assert venv.processes[0].exitcode == venv.processes[1].exitcode == 0


def test_all_else_that_it_can_do():
    fns = [lambda: Monitor(Misbehaving(render_mode="rgb_array")()) for _ in range(2)]
    venv = GuardedSubprocVecEnv(fns, "fork", step_timeout=None)
    venv.reset()
    venv.step(np.zeros(2, int))
    assert venv.env_method("answer", 5, indices=1) == [5]
    assert venv.env_method("answer", None) == [None, None]
    venv.set_attr("note", "changed", indices=[0])
    assert venv.get_attr("note") == ["changed", "untouched"]
    assert venv.env_is_wrapped(Monitor) == [True, True]
    assert venv.has_attr("note")
    assert not venv.has_attr("nothing")
    assert [image.tolist() for image in venv.get_images()] == np.ones((2, 4, 4, 3), int).tolist()
    assert venv.render("rgb_array").shape == (8, 4, 3)  # tiled
    assert venv.action_space == spaces.Discrete(2)
    venv.set_options({"hard": True})
    venv.reset()
    venv.close()
    with pytest.raises(OSError, match="closed"):
        venv.reset()


def test_a_reset_cancels_a_step_whose_answers_nobody_took():
    """As after a Ctrl-C in the middle of ``step_wait``, where the base class would mistake one answer for another."""
    venv = GuardedSubprocVecEnv([Misbehaving() for _ in range(3)], "fork")
    venv.reset()
    venv.step_async(np.zeros(3, int))
    venv.remotes[1].recv()
    assert venv.reset().tolist() == [[0, 1]] * 3
    assert venv.step(np.zeros(3, int))[0].tolist() == [[1, 2]] * 3
    venv.close()


def test_where_there_is_no_epoll(monkeypatch):
    monkeypatch.delattr(select, "epoll", raising=False)
    venv = GuardedSubprocVecEnv([Misbehaving(), Misbehaving("exit", at_step=2)], "fork", step_timeout=5)
    venv.reset()
    assert venv.step(np.zeros(2, int))[0].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(EnvCrashedError, match="exit code 3"):
        venv.step(np.zeros(2, int))
    venv.close()


def test_errors_travel_between_processes():
    error = EnvCrashedError("a", "b", "c", index=3, seed=4, step=5, remote_traceback="Traceback …")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.index, copy.seed, copy.step, str(copy)) == (3, 4, 5, str(error))


def test_waiting_for_nothing():
    venv = GuardedSubprocVecEnv([Misbehaving()], "fork", step_timeout=None)
    with pytest.raises(ConfigError, match="step_async before step_wait"):
        venv.step_wait()
    venv.close()


def test_no_environments():
    with pytest.raises(ConfigError, match="at least one"):
        GuardedSubprocVecEnv([])


def test_make_vec_env_passes_the_limit_and_the_seeds(forked):
    rng = np.random.default_rng(0)
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=2, parallel=True, step_timeout=12.5)
    assert isinstance(venv, GuardedSubprocVecEnv)
    os.kill(venv.processes[1].pid, 9)
    with pytest.raises(EnvCrashedError) as error:
        venv.reset()
    assert error.value.seed == vec_env.make_seeds(np.random.default_rng(0), 2)[1]
    venv.close()
    loop = make_vec_env("CartPole-v1", rng=rng, n_envs=1, step_timeout=None)
    assert type(loop) is LeanDummyVecEnv
