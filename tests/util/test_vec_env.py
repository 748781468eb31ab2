"""One generator decides everything; limits, monitors, wrappers, names."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from understudy.errors import ConfigError, MissingExtraError
from understudy.util import vec_env
from understudy.util.seeding import make_seeds
from understudy.util.vec_env import make_vec_env


def run(seed: int, *, parallel: bool = False, n_steps: int = 30) -> tuple[np.ndarray, list[object]]:
    venv = make_vec_env("CartPole-v1", rng=np.random.default_rng(seed), n_envs=2, parallel=parallel)
    obs = [venv.reset()]
    actions = []
    for _ in range(n_steps):
        actions.append([space.sample() for space in venv.get_attr("action_space")] if not parallel else [0, 1])
        obs.append(venv.step(np.array(actions[-1]))[0])
    venv.close()
    return np.stack(obs), actions


@pytest.mark.defect("B29")
def test_one_generator_decides_states_and_sampled_actions():
    obs, actions = run(0)
    again, actions_again = run(0)
    other, _ = run(1)
    np.testing.assert_array_equal(obs, again)
    assert actions == actions_again
    assert not np.array_equal(obs, other)
    assert not np.array_equal(obs[0, 0], obs[0, 1])  # the copies differ from each other


def test_subprocesses_start_from_the_same_states():
    venv = make_vec_env("CartPole-v1", rng=np.random.default_rng(3), n_envs=2, parallel=True)
    assert isinstance(venv, SubprocVecEnv)
    obs = venv.reset()
    venv.close()
    serial = make_vec_env("CartPole-v1", rng=np.random.default_rng(3), n_envs=2)
    assert isinstance(serial, DummyVecEnv)
    np.testing.assert_array_equal(obs, serial.reset())
    serial.close()


@pytest.mark.parametrize(("limit", "length"), [(None, 200), (7, 7)])
def test_time_limit_of_the_spec_or_of_the_caller(limit, length):
    venv = make_vec_env("Pendulum-v1", rng=np.random.default_rng(0), n_envs=1, max_episode_steps=limit)
    venv.reset()
    for step in range(1, length + 1):
        _, _, dones, infos = venv.step(np.zeros((1, 1), np.float32))
        assert dones[0] == (step == length)
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"]["l"] == length
    venv.close()
    assert gym.spec("Pendulum-v1").max_episode_steps == 200  # the registered spec is untouched


def test_monitor_files(tmp_path, rng):
    venv = make_vec_env("Pendulum-v1", rng=rng, n_envs=2, log_dir=str(tmp_path), max_episode_steps=2)
    venv.reset()
    for _ in range(2):
        venv.step(np.zeros((2, 1), np.float32))
    venv.close()
    files = sorted((tmp_path / "monitor").iterdir())
    assert [file.name for file in files] == ["mon000.monitor.csv", "mon001.monitor.csv"]
    assert all(len(file.read_text().splitlines()) == 3 for file in files)  # header, columns, one episode


def test_post_wrappers_are_outermost_and_know_their_index(rng):
    seen: list[int] = []

    def wrap(env: gym.Env, index: int) -> gym.Env:
        assert isinstance(env, Monitor)
        seen.append(index)
        return gym.wrappers.TransformReward(env, lambda reward: reward + 100.0 * index)

    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=2, post_wrappers=[wrap])
    venv.reset()
    assert venv.step(np.array([0, 0]))[1].tolist() == [1.0, 101.0]
    assert seen == [0, 1]
    venv.close()


def test_make_kwargs_and_module_names(rng):
    venv = make_vec_env("gymnasium.envs:Pendulum-v1", rng=rng, n_envs=1, env_make_kwargs={"g": 5.0})
    assert venv.get_attr("unwrapped")[0].g == 5.0
    assert venv.get_attr("spec")[0].id == "Pendulum-v1"
    venv.close()


def test_seals_is_found_by_its_namespace(rng):
    pytest.importorskip("seals")
    venv = make_vec_env("seals/CartPole-v0", rng=rng, n_envs=1)
    venv.reset()
    for _ in range(500):
        _, _, dones, infos = venv.step(np.array([0]))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    venv.close()


def test_a_missing_package_of_a_namespace_is_named(rng, monkeypatch):
    monkeypatch.setitem(vec_env._NAMESPACES, "seals", ("no_such_package_here", "seals"))
    with pytest.raises(MissingExtraError, match=r"understudy\[seals\]"):
        make_vec_env("seals/NoSuchThing-v0", rng=rng)


@pytest.mark.parametrize("name", ["NoSuchEnv-v0", "no_such_module_here:Env-v0", "CartPole-v99"])
def test_unknown_names(name, rng):
    with pytest.raises(ConfigError, match=name):
        make_vec_env(name, rng=rng)


@pytest.mark.parametrize("options", [{"n_envs": 0}, {"max_episode_steps": 0}])
def test_numbers_below_one(options, rng):
    with pytest.raises(ConfigError, match="at least 1"):
        make_vec_env("CartPole-v1", rng=rng, **options)


def test_seeds():
    one = make_seeds(np.random.default_rng(0))
    many = make_seeds(np.random.default_rng(0), 3)
    assert isinstance(one, int)
    assert many[0] == one
    assert len(set(many)) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 - 1 for seed in many)
