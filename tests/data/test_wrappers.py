"""Wrappers that record hand out exactly what happened, once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from understudy.data.dict_obs import DictObs
from understudy.data.types import TrajectoryWithRew
from understudy.data.wrappers import BufferingWrapper, RolloutInfoWrapper, StartAtZero, counted_from_zero
from understudy.errors import CallOrderError, ConfigError, DataError, SpaceMismatchError, UnsupportedSpaceError


class Counter(gym.Env[Any, Any]):
    """Observes the step of the episode, as ``uint8``; ends after ``length`` steps. The reward of step t is t / 2.

    Args:
        truncates: which kind of end.
        reuses: observations are one array, written anew at each step.
    """

    def __init__(
        self, length: int = 3, *, truncates: bool = False, dictionary: bool = False, reuses: bool = False
    ) -> None:
        box = spaces.Box(0, 255, (2,), np.uint8)
        self.observation_space = spaces.Dict({"a": box, "b": spaces.Discrete(256)}) if dictionary else box
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self._length, self._truncates, self._dictionary = length, truncates, dictionary
        self._t = 0
        self._array = np.zeros(2, np.uint8)
        self._reuses = reuses

    def _obs(self) -> Any:
        self._array[:] = self._t
        array = self._array if self._reuses else self._array.copy()
        return {"a": array, "b": self._t} if self._dictionary else array

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self._t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        over = self._t == self._length
        info = {"t": self._t}
        return self._obs(), self._t / 2, over and not self._truncates, over and self._truncates, info


def counters(*lengths: int, **kwargs: Any) -> BufferingWrapper:
    """One environment for each length of episode."""
    return BufferingWrapper(DummyVecEnv([lambda n=n: Counter(n, **kwargs) for n in lengths]))


def act(venv: BufferingWrapper, n_steps: int, start: int = 0) -> None:
    """Actions tell step and environment: step t of environment e is t + e / 10."""
    for t in range(start, start + n_steps):
        venv.step((t + np.arange(venv.num_envs, dtype=np.float32) / 10)[:, None])


def summary(traj: TrajectoryWithRew) -> tuple[list[int], bool, bool]:
    """First number of each frame, terminal, truncated."""
    return traj.obs[:, 0].tolist(), traj.terminal, traj.truncated


def test_everything_is_popped_once_in_the_order_it_ended() -> None:
    venv = counters(3, 2)
    venv.reset()
    act(venv, 4)
    assert venv.n_transitions == 8
    trajs, lengths = venv.pop_trajectories()
    assert [summary(traj) for traj in trajs] == [
        ([0, 1, 2], True, False),  # environment 1
        ([0, 1, 2, 3], True, False),  # environment 0
        ([0, 1, 2], True, False),  # environment 1, its second episode
        ([0, 1], False, False),  # environment 0, still running
    ]
    assert list(lengths) == [2, 3, 2]
    assert trajs[1].acts.ravel().tolist() == [0, 1, 2]
    np.testing.assert_array_equal(trajs[2].acts, np.float32([[2.1], [3.1]]))
    assert trajs[1].rews.tolist() == [0.5, 1.0, 1.5]
    assert trajs[1].infos is not None
    assert [info["t"] for info in trajs[1].infos] == [1, 2, 3]
    assert venv.n_transitions == 0
    assert venv.pop_trajectories() == ([], [])


def test_types_of_the_environment_are_kept() -> None:
    venv = counters(2)
    venv.reset()
    act(venv, 2)
    (traj,), _ = venv.pop_trajectories()
    assert (traj.obs.dtype, traj.acts.dtype, traj.rews.dtype) == (np.uint8, np.float32, np.float32)


def test_running_episodes_stay_when_only_finished_ones_are_popped() -> None:
    venv = counters(4, 2)
    venv.reset()
    act(venv, 3)
    trajs, lengths = venv.pop_finished_trajectories()
    assert [summary(traj) for traj in trajs] == [([0, 1, 2], True, False)]
    assert list(lengths) == [2]
    assert venv.n_transitions == 3 + 1
    act(venv, 1, start=3)
    trajs, lengths = venv.pop_finished_trajectories()
    assert sorted(summary(traj)[0] for traj in trajs) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert sorted(lengths) == [2, 4]
    assert venv.n_transitions == 0


def test_an_episode_popped_halfway_goes_on_from_its_last_frame_and_keeps_its_length() -> None:
    venv = counters(3)
    venv.reset()
    act(venv, 2)
    (first,), lengths = venv.pop_trajectories()
    assert summary(first) == ([0, 1, 2], False, False)
    assert list(lengths) == []
    act(venv, 1)
    (second,), lengths = venv.pop_trajectories()
    assert summary(second) == ([2, 3], True, False)
    assert list(lengths) == [3]


@pytest.mark.defect("B5")
def test_a_time_limit_is_not_a_termination() -> None:
    venv = counters(2, 3, truncates=True)
    venv.reset()
    act(venv, 7)
    rows = venv.pop_transitions()
    assert len(rows) == 14
    assert not rows.dones.any()
    assert rows.truncated.sum() == 3 + 2
    terminating = counters(2)
    terminating.reset()
    act(terminating, 4)
    rows = terminating.pop_transitions()
    assert rows.dones.tolist() == [False, True, False, True]
    assert not rows.truncated.any()


def test_transitions_lead_to_the_last_frame_and_not_to_the_next_episode() -> None:
    venv = counters(2)
    venv.reset()
    act(venv, 3)
    rows = venv.pop_transitions()
    assert rows.obs[:, 0].tolist() == [0, 1, 0]
    assert rows.next_obs[:, 0].tolist() == [1, 2, 1]
    assert rows.rews.tolist() == [0.5, 1.0, 0.5]
    assert [info["t"] for info in rows.infos] == [1, 2, 1]
    with pytest.raises(CallOrderError, match="step the environment"):
        venv.pop_transitions()


def test_dictionary_observations_are_recorded() -> None:
    venv = counters(2, 3, dictionary=True)
    venv.reset()
    act(venv, 3)
    trajs, _ = venv.pop_trajectories()
    finished = trajs[1].obs
    assert isinstance(finished, DictObs)
    assert finished.get("a").dtype == np.uint8
    assert finished.get("a")[:, 1].tolist() == finished.get("b").tolist() == [0, 1, 2, 3]
    act(venv, 2)
    rows = venv.pop_transitions()
    assert isinstance(rows.next_obs, DictObs)
    assert rows.next_obs.get("b").tolist() == [2, 1, 1, 2]


def test_reset_does_not_cut_off_what_was_not_popped_unless_told_so() -> None:
    venv = counters(3, 2)
    venv.reset()
    venv.reset()  # nothing to lose
    act(venv, 2)
    with pytest.raises(CallOrderError, match="4 not yet popped"):
        venv.reset()
    assert len(venv.pop_transitions()) == 4
    venv.reset()

    lenient = BufferingWrapper(venv.venv, error_on_premature_reset=False)
    assert not lenient.error_on_premature_event
    lenient.reset()
    act(lenient, 2)
    lenient.reset()
    act(lenient, 1)
    assert lenient.n_transitions == 6
    trajs, lengths = lenient.pop_trajectories()
    assert [summary(traj)[:2] for traj in trajs] == [
        ([0, 1, 2], True),
        ([0, 1, 2], False),
        ([0, 1], False),
        ([0, 1], False),
    ]
    assert list(lengths) == [2]
    assert lenient.n_transitions == 0


def test_steps_come_after_a_reset_and_one_at_a_time() -> None:
    venv = counters(3)
    actions = np.zeros((1, 1), np.float32)
    with pytest.raises(CallOrderError, match="no reset"):
        venv.step(actions)
    venv.reset()
    with pytest.raises(CallOrderError, match="no step running"):
        venv.step_wait()
    venv.step_async(actions)
    with pytest.raises(CallOrderError, match="still running"):
        venv.step_async(actions)
    assert issubclass(CallOrderError, RuntimeError)


def test_actions_are_remembered_as_they_were_when_passed() -> None:
    venv = counters(5)
    venv.reset()
    actions = np.zeros((1, 1), np.float32)
    for t in range(3):
        actions[:] = t
        venv.step(actions)
    assert venv.pop_transitions().acts.ravel().tolist() == [0, 1, 2]


@pytest.mark.defect("B15")
@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    pops=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=6),
)
def test_every_step_is_handed_out_exactly_once(lengths: list[int], pops: list[tuple[int, bool]]) -> None:
    venv = counters(*lengths)
    venv.reset()
    total = handed_out = 0
    seen: list[float] = []
    for n_steps, finished_only in [*pops, (1, False)]:
        act(venv, n_steps, start=total)
        total += n_steps
        trajs, _ = venv.pop_finished_trajectories() if finished_only else venv.pop_trajectories()
        handed_out += sum(map(len, trajs))
        assert venv.n_transitions == total * len(lengths) - handed_out
        for traj in trajs:
            np.testing.assert_array_equal(np.diff(traj.obs[:, 0]), 1)
            np.testing.assert_array_equal(traj.rews, traj.obs[1:, 0] / 2)
            seen += np.round(10 * traj.acts.ravel()).astype(int).tolist()
    assert sorted(seen) == sorted(10 * t + e for t in range(total) for e in range(len(lengths)))


def run_episode(env: gym.Env[Any, Any]) -> dict[str, Any]:
    env.reset()
    while True:
        *_, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert ("rollout" in info) == (terminated or truncated)
        if terminated or truncated:
            return info


def test_the_last_info_holds_the_episode_below_other_wrappers() -> None:
    inner = RolloutInfoWrapper(Counter(3, reuses=True))
    outer = gym.wrappers.TransformObservation(inner, lambda obs: 0 * obs, inner.observation_space)
    env = gym.wrappers.TransformReward(outer, lambda rew: -rew)
    for _ in range(2):  # the second episode begins anew
        info = run_episode(env)
        assert info["rollout"]["obs"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
        assert info["rollout"]["obs"].dtype == np.uint8
        assert info["rollout"]["rews"].tolist() == [0.5, 1.0, 1.5]
        assert info["t"] == 3


def test_records_of_episodes_do_not_share_memory() -> None:
    env = RolloutInfoWrapper(Counter(2))
    first, second = run_episode(env)["rollout"], run_episode(env)["rollout"]
    assert not np.shares_memory(first["obs"], second["obs"])
    assert not np.shares_memory(first["rews"], second["rews"])


def test_dictionary_observations_become_dictobs() -> None:
    obs = run_episode(RolloutInfoWrapper(Counter(2, truncates=True, dictionary=True)))["rollout"]["obs"]
    assert isinstance(obs, DictObs)
    assert obs == DictObs({"a": np.array([[0, 0], [1, 1], [2, 2]]), "b": np.arange(3)})
    assert obs.get("a").dtype == np.uint8


def test_long_episodes_grow_the_record() -> None:
    rollout = run_episode(RolloutInfoWrapper(Counter(200)))["rollout"]
    assert rollout["obs"][:, 0].tolist() == list(range(201))
    np.testing.assert_array_equal(rollout["rews"], np.arange(1, 201) / 2)


def test_an_unfinished_episode_leaves_nothing_in_the_next() -> None:
    env = RolloutInfoWrapper(Counter(3))
    env.reset()
    env.step(np.zeros(1, np.float32))
    assert len(run_episode(env)["rollout"]["obs"]) == 4


def test_wrapping_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="wrap the environment once"):
        run_episode(RolloutInfoWrapper(RolloutInfoWrapper(Counter(1))))


def test_observations_that_change_shape_or_entries_are_refused() -> None:
    env = RolloutInfoWrapper(Counter(3))
    env.reset()
    env._obs.append(np.zeros(2, np.uint8))
    with pytest.raises(DataError, match=r"shape \(2,\).*got shape \(3,\)"):
        env._obs.append(np.zeros(3, np.uint8))
    dictionary = RolloutInfoWrapper(Counter(3, dictionary=True))
    dictionary.reset()
    with pytest.raises(DataError, match=r"entries \['a', 'b'\].*\['a'\]"):
        dictionary._obs.append({"a": np.zeros(2)})


def test_a_wider_type_is_not_cut_down() -> None:
    class Widening(Counter):
        def _obs(self) -> Any:
            return np.array([0.1]) if self._t else np.array([0.0], np.float32)

    obs = run_episode(RolloutInfoWrapper(Widening(2)))["rollout"]["obs"]
    assert obs.dtype == np.float64
    assert obs.ravel().tolist() == [0.0, 0.1, 0.1]


def test_the_record_travels_between_processes() -> None:
    def make() -> gym.Env[Any, Any]:
        return RolloutInfoWrapper(Counter(2, dictionary=True))

    venv = SubprocVecEnv([make], start_method="fork")
    try:
        venv.reset()
        venv.step(np.zeros((1, 1), np.float32))
        *_, infos = venv.step(np.zeros((1, 1), np.float32))
    finally:
        venv.close()
    assert infos[0]["rollout"]["obs"].get("b").tolist() == [0, 1, 2]


def test_an_environment_made_from_the_wrapped_spec_is_wrapped_too() -> None:
    env = RolloutInfoWrapper(gym.make("CartPole-v1"))
    assert env.spec is not None
    assert isinstance(gym.make(env.spec), RolloutInfoWrapper)


class Asked(gym.Env[Any, Any]):
    """Remembers the action it was given."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = action_space

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return np.zeros(1, np.float32), 0.0, False, False, {"given": action}


@pytest.mark.parametrize(
    ("space", "shifted", "action", "given"),
    [
        (spaces.Discrete(3, start=3), spaces.Discrete(3), np.int64(2), 5),
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), np.int64(0), -1),
        (spaces.MultiDiscrete([2, 3], start=[-1, 5]), spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 7]),
    ],
)
def test_actions_from_zero_arrive_as_the_environments_own(
    space: gym.Space[Any], shifted: gym.Space[Any], action: Any, given: Any
) -> None:
    env = StartAtZero(Asked(space))
    assert env.action_space == shifted
    assert np.array_equal(env.step(action)[-1]["given"], given)
    own = np.array([given, given])
    demos = counted_from_zero({"obs": np.zeros((2, 1), np.float32), "acts": own}, space)
    assert np.array_equal(demos.acts, [action, action])
    assert demos.acts.dtype == own.dtype


def test_what_does_not_count_is_refused() -> None:
    obs = np.zeros((2, 1), np.float32)
    box = spaces.Box(-1, 1, (1,), np.float32)
    with pytest.raises(UnsupportedSpaceError):
        StartAtZero(Asked(box))
    with pytest.raises(UnsupportedSpaceError):
        counted_from_zero({"obs": obs, "acts": obs}, box)
    with pytest.raises(SpaceMismatchError):  # counted from zero before
        counted_from_zero({"obs": obs, "acts": np.array([0, 1])}, spaces.Discrete(3, start=3))
