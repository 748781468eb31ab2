"""The lean environments do, step for step, what Stable-Baselines3's do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from understudy.data.wrappers import RolloutInfoWrapper
from understudy.util.lean_vec_env import LeanDummyVecEnv, first_of
from understudy.util.util import make_vec_env

Make = Callable[[], gym.Env[Any, Any]]


class Odd(gym.Env[Any, Any]):
    """Observes the step of its episode beside noise. Infos hold lists, arrays and dictionaries of them.

    Of the episodes, which last 3 to 5 steps, every second is truncated.

    Args:
        form: of the observations: "array", "dict", "tuple" or "number".
        careless: go on writing, at resets too, to what was handed out.
        one_info: hand out the same dictionary at each step.
    """

    def __init__(self, form: str = "array", *, careless: bool = False, one_info: bool = False) -> None:
        box = spaces.Box(-10, 10, (2,), np.float32)
        self.observation_space = {
            "array": box,
            "dict": spaces.Dict({"a": box, "n": spaces.Discrete(99)}),
            "tuple": spaces.Tuple([box, spaces.Discrete(99)]),
            "number": spaces.Discrete(99),
        }[form]
        self.action_space = spaces.Discrete(2)
        self._form, self._careless, self._one_info = form, careless, one_info
        self._array = np.zeros(2, np.float64)
        self._log: list[int] = []
        self._info: dict[str, Any] = {}
        self._episodes = 0

    def _obs(self) -> Any:
        if not self._careless:
            self._array, self._log = self._array.copy(), self._log.copy()
        self._array[:] = self._t, self.np_random.normal()
        if self._form == "dict":
            return {"a": self._array, "n": self._t}
        if self._form == "tuple":
            return self._array, self._t
        return self._t if self._form == "number" else self._array

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        self._episodes += 1
        obs = self._obs()
        self._log.clear()
        return obs, {"options": options, "episode_number": self._episodes}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._t += 1
        obs = self._obs()
        self._log.append(int(action))
        info = self._info if self._one_info else {}
        info.update(log=self._log, array=self._array, nested={"deep": [self._array]}, t=self._t, text="x", none=None)
        over = self._t == 3 + self._episodes % 3
        truncated = over and self._episodes % 2 == 0
        return obs, self._t / 3, over and not truncated, truncated, info


def same(mine: Any, theirs: Any) -> None:
    """Equal in type, dtype and value, all the way down; for the type of dictionary nobody asks."""
    assert type(mine) is type(theirs) or (isinstance(mine, dict) and isinstance(theirs, dict))
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            same(mine[key], theirs[key])
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            same(one, other)
    elif isinstance(mine, np.ndarray):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    else:
        assert mine == theirs


def without_clock(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The wall-clock time that Monitor tells differs from run to run."""
    for info in infos:
        if "episode" in info:
            info["episode"]["t"] = 0
    return infos


ENVS: dict[str, Make] = {
    "CartPole": lambda: gym.make("CartPole-v1", max_episode_steps=15),
    "CartPole, recorded": lambda: RolloutInfoWrapper(Monitor(gym.make("CartPole-v1", max_episode_steps=15))),
    "Pendulum": lambda: gym.make("Pendulum-v1", max_episode_steps=7),
    "array": lambda: Odd(),
    "dictionary": lambda: Odd("dict"),
    "pair": lambda: Odd("tuple"),
    "number": lambda: Odd("number"),
    "monitored dictionary": lambda: Monitor(Odd("dict")),
}


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS.keys())
def test_step_for_step_the_same(make: Make) -> None:
    lean, plain = LeanDummyVecEnv([make] * 3), DummyVecEnv([make] * 3)
    for venv in (lean, plain):
        venv.seed(3)
        venv.action_space.seed(5)
    same(lean.reset(), plain.reset())
    n_ended = 0
    for _ in range(40):
        actions = np.stack([lean.action_space.sample() for _ in range(3)])
        mine, theirs = lean.step(actions), plain.step(actions)
        same(mine[:3], theirs[:3])
        same(without_clock(list(mine[3])), without_clock(list(theirs[3])))
        same(lean.reset_infos, plain.reset_infos)
        n_ended += int(mine[2].sum())
    assert n_ended >= 6
    lean.close()
    plain.close()


def test_seeds_and_options_reach_the_environments_once() -> None:
    lean = LeanDummyVecEnv([Odd, Odd])
    lean.seed(7)
    lean.set_options({"level": 2})
    first = lean.reset()
    assert [info["options"] for info in lean.reset_infos] == [{"level": 2}] * 2
    lean.seed(7)
    same(lean.reset(), first)
    assert [info["options"] for info in lean.reset_infos] == [None] * 2
    assert not np.array_equal(np.asarray(lean.reset()), np.asarray(first))


@pytest.mark.parametrize("form", ["array", "dict", "tuple"])
def test_what_was_handed_out_does_not_change_later(form: str) -> None:
    lean = LeanDummyVecEnv([lambda: Odd(form, careless=True)])
    steps: list[tuple[Any, Any]] = [(lean.reset(), [])]
    copies: list[str] = [repr(steps[0])]
    for t in range(12):
        obs, rews, dones, infos = lean.step(np.array([t % 2]))
        steps.append(((obs, rews, dones), infos))
        copies.append(repr(steps[-1]))
    assert [repr(step) for step in steps] == copies
    logs = [infos[0]["log"] for _, infos in steps[1:]]
    assert logs[:5] == [[0], [0, 1], [0, 1, 0], [0, 1, 0, 1], [0]]
    last = steps[4][1][0]["terminal_observation"]
    assert {"array": lambda: last[0], "dict": lambda: last["a"][0], "tuple": lambda: last[0][0]}[form]() == 4


def test_an_environment_that_hands_out_one_info_again_and_again() -> None:
    """Here Stable-Baselines3 writes into that dictionary, and an old last observation comes along with each step."""
    env = Odd(careless=True, one_info=True)
    lean = LeanDummyVecEnv([lambda: env])
    lean.reset()
    found = [(bool(dones[0]), infos[0]) for _, _, dones, infos in (lean.step(np.array([1])) for _ in range(12))]
    assert sum(done for done, _ in found) >= 2
    assert [done for done, _ in found] == ["terminal_observation" in info for _, info in found]
    assert [info["t"] for _, info in found][:5] == [1, 2, 3, 4, 1]
    assert "TimeLimit.truncated" not in env._info


def test_the_two_kinds_of_end_are_told_apart() -> None:
    lean = LeanDummyVecEnv([Odd])
    lean.reset()
    kinds = []
    for _ in range(20):
        _, _, dones, infos = lean.step(np.array([0]))
        if dones[0]:
            kinds.append(infos[0]["TimeLimit.truncated"])
        else:
            assert infos[0]["TimeLimit.truncated"] is False
    assert kinds == [False, True, False, True]


class Both(Odd):
    """Terminated and truncated in the same step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, rew, _, _, info = super().step(action)
        return obs, rew, True, True, info


def test_termination_wins_over_a_time_limit_in_the_same_step() -> None:
    lean = LeanDummyVecEnv([Both])
    lean.reset()
    _, _, dones, infos = lean.step(np.array([0]))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"] is False


def test_it_is_what_make_vec_env_gives(cartpole_venv: VecEnv) -> None:
    assert isinstance(cartpole_venv, LeanDummyVecEnv)
    assert isinstance(cartpole_venv, DummyVecEnv)
    venv = make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=1)
    assert venv.get_attr("spec")[0].id == "CartPole-v1"
    assert venv.env_is_wrapped(Monitor) == [True]
    venv.close()


@pytest.mark.parametrize("kind", [LeanDummyVecEnv, DummyVecEnv])
def test_the_first_environments_can_be_stepped_alone(kind: type[DummyVecEnv]) -> None:
    venv = kind([Odd] * 3)
    venv.seed(3)
    venv.reset()
    few = first_of(venv, 2)
    assert few.num_envs == 2
    few.reset()
    for _ in range(2):
        few.step(np.zeros(2, dtype=np.int64))
    assert [env.unwrapped._t for env in venv.envs] == [2, 2, 0]  # type: ignore[attr-defined]
    assert [env.unwrapped for env in venv.envs[:2]] == [env.unwrapped for env in few.envs]  # type: ignore[attr-defined]


def test_all_are_stepped_where_they_cannot_be_parted() -> None:
    venv = LeanDummyVecEnv([Odd] * 2)
    wrapped = VecMonitor(venv)
    assert first_of(wrapped, 1) is wrapped
    assert first_of(venv, 2) is venv
    assert first_of(venv, 5) is venv
