"""Rollouts record what happened, all of it, and leave everything else as it was."""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from understudy.data import _episodes
from understudy.data._episodes import EpisodeRecorder
from understudy.data.rollout import (
    TrajectoryAccumulator,
    check_policy_spaces,
    discounted_sum,
    flatten_trajectories,
    generate_trajectories,
    generate_transitions,
    make_min_episodes,
    make_min_timesteps,
    make_sample_until,
    policy_to_callable,
    rollout,
    rollout_stats,
    unwrap_traj,
)
from understudy.data.types import DictObs, TrajectoryWithRew
from understudy.data.wrappers import RolloutInfoWrapper
from understudy.errors import (
    ConfigError,
    DataError,
    EmptyDataError,
    NonFiniteDataError,
    SpaceMismatchError,
)
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.util import make_vec_env


class Steps(gym.Env[Any, Any]):
    """Observes (episode, step), pays the step, and ends after ``length`` steps.

    Args:
        length: steps in an episode.
        truncates: end by a time limit, else by termination.
        dictionary: observe {"at": (episode, step), "n": step}.
        pays: the reward of a step, in whatever type it likes.
    """

    def __init__(
        self,
        length: int = 3,
        *,
        truncates: bool = False,
        dictionary: bool = False,
        pays: Callable[[int], Any] = float,
        actions: spaces.Space[Any] | None = None,
    ) -> None:
        box = spaces.Box(0, 10_000, (2,), np.float32)
        self.observation_space = spaces.Dict({"at": box, "n": spaces.Discrete(100)}) if dictionary else box
        self.action_space = spaces.Discrete(2) if actions is None else actions
        self.length, self.truncates, self.dictionary, self.pays = length, truncates, dictionary, pays
        self.episode = 0

    def _obs(self) -> Any:
        at = np.array([self.episode, self.t], dtype=np.float32)
        return {"at": at, "n": self.t} if self.dictionary else at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.length
        return self._obs(), self.pays(self.t), over and not self.truncates, over and self.truncates, {"t": self.t}


def zeros(obs: Any) -> np.ndarray:
    """A policy that always takes the first choice."""
    n = len(obs["at"] if isinstance(obs, dict) else obs)
    return np.zeros(n, dtype=np.int64)


def fresh(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def episodes(venv: VecEnv, n: int = 1, policy: Any = zeros, **kwargs: Any) -> Sequence[TrajectoryWithRew]:
    return rollout(policy, venv, make_min_episodes(n), fresh(), **kwargs)


def array(obs: Any) -> np.ndarray:
    assert isinstance(obs, np.ndarray)
    return obs


# --- what is recorded -------------------------------------------------------------------------------------------


def test_an_episode_is_recorded_as_it_happened() -> None:
    def alternating(obs: np.ndarray) -> np.ndarray:
        return (obs[:, 1] % 2).astype(np.int64)

    (found,) = generate_trajectories(alternating, LeanDummyVecEnv([Steps]), make_min_episodes(1), fresh())
    assert array(found.obs).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert found.acts.tolist() == [0, 1, 0]
    assert found.rews.tolist() == [1, 2, 3]
    assert found.infos is not None
    assert [info["t"] for info in found.infos] == [1, 2, 3]
    assert (found.terminal, found.truncated, found.terminated) == (True, False, True)
    assert [x.dtype for x in (array(found.obs), found.acts, found.rews)] == [np.float32, np.int64, np.float32]


def test_dictionary_observations() -> None:
    (found,) = episodes(LeanDummyVecEnv([lambda: Steps(dictionary=True)]))
    assert isinstance(found.obs, DictObs)
    assert found.obs.get("at").tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert found.obs.get("n").tolist() == [0, 1, 2, 3]
    assert found.obs.dtype == {"at": np.float32, "n": np.int64}


@pytest.mark.defect("B5")
@pytest.mark.parametrize("truncates", [False, True])
def test_a_time_limit_is_no_termination(truncates: bool) -> None:
    found = episodes(LeanDummyVecEnv([lambda: Steps(truncates=truncates)] * 2), 4)
    assert len(found) == 4
    assert all(t.terminal and t.truncated is truncates for t in found)
    flat = flatten_trajectories(found)
    assert (flat.dones.sum(), flat.truncated.sum()) == ((0, 4) if truncates else (4, 0))


@pytest.mark.defect("B5")
@pytest.mark.parametrize("env", ["MountainCar-v0", "Pendulum-v1"])
def test_environments_that_only_ever_run_out_of_time_have_no_dones(env: str) -> None:
    venv = make_vec_env(env, rng=fresh(), n_envs=2)
    flat = flatten_trajectories(episodes(venv, 2, None))
    assert len(flat) == 400
    assert not flat.dones.any()
    assert np.flatnonzero(flat.truncated).tolist() == [199, 399]


@pytest.mark.defect("B26")
def test_it_works_without_and_with_the_wrapper_that_records() -> None:
    def doubled(*, recorded: bool) -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = Steps()
        if recorded:
            env = RolloutInfoWrapper(env)
        env = gym.wrappers.TransformReward(env, lambda r: 100 * float(r))
        return gym.wrappers.TransformObservation(env, lambda obs: 2 * obs, env.observation_space)

    (outer,) = episodes(LeanDummyVecEnv([lambda: doubled(recorded=False)]))
    assert array(outer.obs)[:, 1].tolist() == [0, 2, 4, 6]
    assert outer.rews.tolist() == [100, 200, 300]
    venv = LeanDummyVecEnv([lambda: doubled(recorded=True)])
    (inner,) = episodes(venv)
    assert array(inner.obs).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert inner.rews.tolist() == [1, 2, 3]
    (wrapped,) = episodes(venv, unwrap=False, exclude_infos=False)
    assert array(wrapped.obs)[:, 1].tolist() == [0, 2, 4, 6]
    unwrapped = unwrap_traj(wrapped)
    assert array(unwrapped.obs)[:, 1].tolist() == [0, 1, 2, 3]
    assert unwrapped.rews.tolist() == [1, 2, 3]
    assert unwrap_traj(outer) is outer


def test_infos_are_dropped_unless_wanted() -> None:
    venv = LeanDummyVecEnv([Steps])
    assert episodes(venv)[0].infos is None
    (kept,) = episodes(venv, exclude_infos=False)
    assert kept.infos is not None
    assert "terminal_observation" in kept.infos[-1]


@pytest.mark.defect("B26")
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize(
    ("pays", "expected"),
    [
        (int, [1, 2, 3]),
        (lambda t: t == 2, [0, 1, 0]),
        (lambda t: 0 if t < 3 else 0.75, [0, 0, 0.75]),
        (lambda t: np.float64(t / 4), [0.25, 0.5, 0.75]),
    ],
    ids=["integers", "booleans", "nothing until the end", "float64"],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_rewards_of_any_type_become_float32(kind: Any, pays: Any, expected: list[float]) -> None:
    kwargs = {"start_method": "fork"} if kind is SubprocVecEnv else {}
    venv = kind([lambda: Steps(pays=pays)], **kwargs)
    (found,) = episodes(venv)
    venv.close()
    assert found.rews.tolist() == expected
    assert found.rews.dtype == np.float32


class InPlace(Steps):
    """Writes into the action it is given."""

    def step(self, action: Any) -> Any:
        action *= 100
        return super().step(action)


def test_what_policy_and_environment_do_to_their_arguments_is_not_recorded() -> None:
    def ruinous(obs: np.ndarray) -> np.ndarray:
        acts = obs[:, 1:].copy()
        obs[:] = -1
        return acts

    box = spaces.Box(0, 9, (1,))
    (found,) = episodes(LeanDummyVecEnv([lambda: InPlace(actions=box)]), policy=ruinous)
    assert array(found.obs).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert found.acts.tolist() == [[0], [1], [2]]


def test_actions_may_be_whole_numbers_before_they_are_fractions() -> None:
    def growing(obs: np.ndarray) -> np.ndarray:
        return np.zeros((1, 1), int) if obs[0, 1] == 0 else np.full((1, 1), 0.5)

    (found,) = episodes(LeanDummyVecEnv([lambda: Steps(actions=spaces.Box(0, 9, (1,)))]), policy=growing)
    assert found.acts.ravel().tolist() == [0, 0.5, 0.5]


@pytest.mark.defect("B19")
def test_trajectories_own_their_arrays() -> None:
    venv = LeanDummyVecEnv([Steps, Steps])
    first, second = episodes(venv, 2)
    for t in (first, second):
        assert array(t.obs).flags.writeable
        assert t.acts.flags.writeable
        assert t.rews.flags.writeable
    assert not np.shares_memory(array(first.obs), array(second.obs))
    before = array(first.obs).copy()
    episodes(venv, 2)
    np.testing.assert_array_equal(array(first.obs), before)


# --- how much is sampled ----------------------------------------------------------------------------------------


def test_running_episodes_are_finished_so_that_short_ones_are_not_favoured() -> None:
    """Steps 1, 2, 3 end an episode of one step each; the long one had begun by then and goes on to its end."""
    venv = LeanDummyVecEnv([lambda: Steps(1), lambda: Steps(10)])
    assert sorted(len(t) for t in episodes(venv, 3)) == [1, 1, 1, 10]
    assert sorted(len(t) for t in rollout(zeros, venv, make_min_timesteps(11), fresh())) == [1] * 10 + [10]
    # After step 2 (two short episodes and no more wanted) an idle environment is not recorded.
    assert sorted(len(t) for t in episodes(venv, 2)) == [1, 1, 10]


def test_what_ends_at_once_counts_at_once() -> None:
    venv = LeanDummyVecEnv([Steps] * 4)
    assert len(episodes(venv, 1)) == 4
    assert len(episodes(venv, 5)) == 8


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), n=st.integers(1, 12), by_steps=st.booleans())
@settings(max_examples=30)
def test_every_minimum_is_met_by_whole_episodes(lengths: list[int], n: int, by_steps: bool) -> None:
    venv = LeanDummyVecEnv([functools.partial(Steps, length) for length in lengths])
    until = make_sample_until(min_timesteps=n) if by_steps else make_sample_until(min_episodes=n)
    found = rollout(zeros, venv, until, fresh())
    assert (sum(len(t) for t in found) if by_steps else len(found)) >= n
    assert all(t.terminal and len(t) in lengths for t in found)
    assert {len(t) for t in found} == set(lengths), "each environment finishes at least one episode"
    for t in found:
        assert array(t.obs)[:, 1].tolist() == list(range(len(t) + 1))


def test_the_order_of_episodes_says_nothing_about_their_length() -> None:
    venv = LeanDummyVecEnv([lambda: Steps(1), lambda: Steps(30)])
    places = set()
    for seed in range(10):
        found = rollout(zeros, venv, make_min_episodes(2), fresh(seed))
        places.add([len(t) for t in found].index(30))
    assert len(places) > 1


class Counted(TrajectoryWithRew):
    """Counts how often its length is asked for."""

    asked = 0

    def __len__(self) -> int:
        Counted.asked += 1
        return super().__len__()


@pytest.mark.defect("C8")
def test_steps_are_counted_once() -> None:
    Counted.asked = 0
    steps, collected = make_min_timesteps(100), []
    for i in range(50):
        collected.append(Counted(np.zeros((3, 1)), np.zeros(2), None, True, np.zeros(2)))
        assert steps(collected) is (i == 49)
    assert Counted.asked == 50
    other = [Counted(np.zeros((3, 1)), np.zeros(2), None, True, np.zeros(2)) for _ in range(49)]
    assert not steps(other)
    assert not steps([])
    assert steps([*other, *other[:1]])
    assert not steps([TrajectoryWithRew(np.zeros((2, 1)), np.zeros(1), None, True, np.zeros(1))] * 60)
    assert steps([*collected, *other])


def test_several_minima_are_all_met() -> None:
    one = TrajectoryWithRew(np.zeros((6, 1)), np.zeros(5), None, True, np.zeros(5))
    both = make_sample_until(min_timesteps=10, min_episodes=3)
    assert [both([one] * n) for n in range(1, 5)] == [False, False, True, True]
    many = make_sample_until(min_timesteps=20, min_episodes=3)
    assert [many([one] * n) for n in range(1, 5)] == [False, False, False, True]


def test_minima_must_make_sense() -> None:
    with pytest.raises(ConfigError, match="neither"):
        make_sample_until()
    for wrong in (0, -1):
        for make in (make_min_episodes, make_min_timesteps):
            with pytest.raises(ConfigError, match="≥ 1"):
                make(wrong)
        with pytest.raises(ConfigError):
            make_sample_until(min_timesteps=wrong)
        with pytest.raises(ConfigError):
            make_sample_until(min_episodes=wrong)


def test_transitions_are_cut_to_the_number_asked_for() -> None:
    venv = LeanDummyVecEnv([Steps, Steps])
    exact = generate_transitions(zeros, venv, 7, fresh())
    assert len(exact) == 7
    assert exact.rews.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert exact.dones.tolist() == [False, False, True] * 2 + [False]
    assert len(generate_transitions(zeros, venv, 7, fresh(), truncate=False)) == 12


# --- who acts ---------------------------------------------------------------------------------------------------


def test_a_callable_may_keep_a_state_from_step_to_step() -> None:
    seen: list[tuple[Any, list[bool]]] = []

    def counting(obs: Any, state: Any, starts: Any) -> tuple[np.ndarray, Any]:
        """Acts with the parity of the steps since the episode began."""
        seen.append((state, starts.tolist()))
        n = np.where(starts, 0, 0 if state is None else state[0])
        return n % 2, (n + 1,)

    found = episodes(LeanDummyVecEnv([lambda: Steps(2), lambda: Steps(3)]), 3, counting)
    assert seen[0] == (None, [True, True])
    assert [starts for _, starts in seen[:4]] == [[True, True], [False, False], [True, False], [False, True]]
    assert all(t.acts.tolist() == [0, 1, 0][: len(t)] for t in found)


class Callable3:
    def __call__(self, obs: Any, state: Any = None, episode_start: Any = None) -> tuple[np.ndarray, Any]:
        return zeros(obs), None


@pytest.mark.parametrize(
    "policy",
    [
        zeros,
        lambda obs: [0, 0],
        lambda obs, bias=0: zeros(obs) + bias,
        lambda obs, *, state=None: zeros(obs),
        lambda *args: (zeros(args[0]), args[1]),
        lambda obs, state, starts: (zeros(obs), state),
        Callable3(),
        Callable3().__call__,
    ],
    ids=["function", "list", "option", "keyword", "any number", "three", "object", "method"],
)
def test_anything_that_takes_observations_can_act(policy: Any) -> None:
    venv = LeanDummyVecEnv([Steps, Steps])
    assert [t.acts.tolist() for t in episodes(venv, 2, policy)] == [[0, 0, 0]] * 2


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_act_is_refused() -> None:
    venv = LeanDummyVecEnv([Steps])
    with pytest.raises(ConfigError, match="parameters"):
        episodes(venv, policy=lambda: 0)
    with pytest.raises(ConfigError, match="parameters"):
        episodes(venv, policy=lambda a, b: 0)
    with pytest.raises(ConfigError, match="got str"):
        episodes(venv, policy="ppo")
    with pytest.raises(ConfigError, match="random actions"):
        episodes(venv, policy=None, deterministic_policy=True)
    with pytest.raises(ConfigError, match="greedy"):
        episodes(venv, greedy=True)


def test_no_policy_means_random_actions() -> None:
    venv = LeanDummyVecEnv([lambda: Steps(50)] * 2)
    acts = np.concatenate([t.acts for t in episodes(venv, 2, None)])
    assert 25 < acts.sum() < 75  # four standard deviations of 100 coins are 20
    assert not np.array_equal(acts[:50], acts[50:])


def test_policies_act_by_their_mode_or_by_chance() -> None:
    venv = make_vec_env("CartPole-v1", rng=fresh(), n_envs=2)
    policy = PPO("MlpPolicy", venv, device="cpu", seed=0).policy
    for t in episodes(venv, 4, policy, deterministic_policy=True):
        np.testing.assert_array_equal(t.acts, policy.predict(array(t.obs)[:-1], deterministic=True)[0])
    sampled = episodes(venv, 4, policy)
    assert any(not np.array_equal(t.acts, policy.predict(array(t.obs)[:-1], deterministic=True)[0]) for t in sampled)
    act = policy_to_callable(policy, venv, deterministic_policy=True)
    obs = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(act(obs, None, None)[0], policy.predict(obs, deterministic=True)[0])


def test_an_algorithm_with_a_predict_of_its_own_acts_by_it() -> None:
    venv = make_vec_env("CartPole-v1", rng=fresh(), n_envs=2)
    dqn = DQN("MlpPolicy", venv, device="cpu", seed=0, buffer_size=10)
    dqn.exploration_rate = 1.0
    exploring = np.concatenate([t.acts for t in episodes(venv, 4, dqn)])
    assert 0.2 < exploring.mean() < 0.8
    for t in episodes(venv, 2, dqn, deterministic_policy=True):
        np.testing.assert_array_equal(t.acts, dqn.policy.predict(array(t.obs)[:-1], deterministic=True)[0])


BOX, OTHER = spaces.Box(0, 10_000, (2,), np.float32), spaces.Discrete(3)
PAIRS: list[tuple[Any, Any]] = [
    (spaces.Box(0, 10_000, (3,)), spaces.Discrete(2)),
    (spaces.Box(0, 1, (2,)), spaces.Discrete(2)),
    (spaces.Box(0, 10_000, (2,), np.float64), spaces.Discrete(2)),
    (spaces.Box(0, 10_000, (1, 2)), spaces.Discrete(2)),
    (spaces.Discrete(2), spaces.Discrete(2)),
    (spaces.MultiDiscrete([2, 2]), spaces.Discrete(2)),
    (spaces.MultiBinary(2), spaces.Discrete(2)),
    (spaces.Dict({"at": BOX}), spaces.Discrete(2)),
    (BOX, spaces.Discrete(3)),
    (BOX, spaces.Discrete(2, start=1)),
    (BOX, spaces.Box(-1, 1, (1,))),
    (BOX, spaces.MultiBinary(1)),
    (BOX, spaces.MultiDiscrete([2])),
]


@pytest.mark.fault("F9")
@pytest.mark.parametrize(("observation_space", "action_space"), PAIRS, ids=str)
def test_a_policy_for_other_spaces_does_not_act(observation_space: Any, action_space: Any) -> None:
    kind = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    env = Steps()
    venv = LeanDummyVecEnv([lambda: env])
    policy = PPO.policy_aliases[kind](observation_space, action_space, lambda _: 0.0)
    with pytest.raises(SpaceMismatchError) as caught:
        episodes(venv, policy=policy)
    theirs = (observation_space, venv.observation_space)
    if observation_space == venv.observation_space:
        theirs = (action_space, venv.action_space)
    assert str(theirs[0]) in caught.value.expected
    assert str(theirs[1]) in caught.value.got
    assert env.episode == 0, "nothing was run"


def test_channels_last_images_are_the_same_space() -> None:
    first, last = spaces.Box(0, 255, (3, 40, 36), np.uint8), spaces.Box(0, 255, (40, 36, 3), np.uint8)
    choice = spaces.Discrete(2)
    plain = ActorCriticPolicy(first, choice, lambda _: 0.0)
    check_policy_spaces(plain, last, choice)
    check_policy_spaces(plain, first, choice)
    nested = PPO.policy_aliases["MultiInputPolicy"](spaces.Dict({"i": first, "x": BOX}), choice, lambda _: 0.0)
    check_policy_spaces(nested, spaces.Dict({"i": last, "x": BOX}), choice)
    for wrong in (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Box(0, 1, (40, 36, 3)), BOX):
        with pytest.raises(SpaceMismatchError):
            check_policy_spaces(plain, wrong, choice)
    with pytest.raises(SpaceMismatchError):
        check_policy_spaces(nested, spaces.Dict({"i": last}), choice)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_policy_that_is_not_a_number_stops_the_rollout(deterministic: bool) -> None:
    venv = LeanDummyVecEnv([Steps])
    algorithm = PPO("MlpPolicy", venv, device="cpu")
    with torch.no_grad():
        algorithm.policy.action_net.bias.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(NonFiniteDataError, match="NaN"):
        episodes(venv, policy=algorithm, deterministic_policy=deterministic)


# --- what is left behind ----------------------------------------------------------------------------------------


class NoticesMode(torch.nn.Module):
    """Notes in which mode it was used."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bool] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add(self.training)
        return x


@pytest.mark.defect("B6")
@pytest.mark.parametrize("how", ["policy", "algorithm", "bound predict"])
def test_a_rollout_leaves_every_module_in_its_mode(how: str) -> None:
    venv = LeanDummyVecEnv([Steps, Steps])
    algorithm = PPO("MlpPolicy", venv, device="cpu")
    policy = algorithm.policy
    notices = NoticesMode()
    policy.mlp_extractor.policy_net.append(notices)
    policy.set_training_mode(True)
    policy.value_net.eval()
    modes = {name: module.training for name, module in policy.named_modules()}
    assert set(modes.values()) == {True, False}
    acting: Any = {"policy": policy, "algorithm": algorithm, "bound predict": policy.predict}[how]
    episodes(venv, 3, acting)
    assert {name: module.training for name, module in policy.named_modules()} == modes
    assert policy.training
    assert notices.seen == {False}


class Breaks(Steps):
    def step(self, action: Any) -> Any:
        raise RuntimeError("broken")


def states(*action_spaces: spaces.Space[Any]) -> list[str]:
    """All the randomness that a caller may own."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    position = numpy["state"]["pos"]
    return [
        repr(torch.random.get_rng_state().tolist()),
        repr((numpy.pop("state")["key"].tolist(), position, numpy)),
        repr(random.getstate()),
        *(repr(space.np_random.bit_generator.state) for space in action_spaces),
    ]


@pytest.mark.defect("B29")
@pytest.mark.fault("F24")
@pytest.mark.usefixtures("as_users_run_it")  # the check of annotations looks at random elements
@pytest.mark.parametrize("who", ["PPO", "DQN", "DQN, bound", "random", "breaks"])
def test_the_callers_generators_stay_untouched(who: str) -> None:
    venv = LeanDummyVecEnv([Breaks if who == "breaks" else lambda: Steps(20)])
    venv.action_space.seed(1)
    algorithm: Any = DQN("MlpPolicy", venv, buffer_size=10) if "DQN" in who else PPO("MlpPolicy", venv)
    algorithm.policy.set_training_mode(True)
    if "DQN" in who:
        algorithm.exploration_rate = 0.5
    policy = {"random": None, "DQN, bound": algorithm.predict}.get(who, algorithm)
    before = states(venv.action_space, algorithm.action_space)
    if who == "breaks":
        with pytest.raises(RuntimeError, match="broken"):
            episodes(venv, policy=policy)
    else:
        episodes(venv, policy=policy)
    assert states(venv.action_space, algorithm.action_space) == before
    assert algorithm.policy.training


def the_same(mine: Sequence[TrajectoryWithRew], theirs: Sequence[TrajectoryWithRew]) -> bool:
    """Equal in values and types."""
    return len(mine) == len(theirs) and all(
        a == b
        and array(a.obs).dtype == array(b.obs).dtype
        and (a.acts.dtype, a.rews.dtype) == (b.acts.dtype, b.rews.dtype)
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.defect("B29")
@pytest.mark.parametrize("who", ["PPO", "DQN", "random"])
def test_one_seed_decides_everything(who: str) -> None:
    found: list[Sequence[TrajectoryWithRew]] = []
    for seed in (0, 0, 1):
        venv = make_vec_env("CartPole-v1", rng=fresh(5), n_envs=3)
        algorithm: Any = {"PPO": PPO, "DQN": DQN}.get(who, PPO)("MlpPolicy", venv, seed=7, device="cpu")
        algorithm.exploration_rate = 0.5
        torch.manual_seed(len(found))
        np.random.seed(len(found))  # noqa: NPY002
        policy = None if who == "random" else algorithm
        found.append(rollout(policy, venv, make_min_episodes(6), fresh(seed)))
    assert the_same(found[0], found[1])
    assert not the_same(found[0], found[2])


class Careless(Steps):
    """Gives Python numbers and float64 where its space says float32."""

    def _obs(self) -> Any:
        return np.array([self.np_random.normal(), self.t / 3])

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, self.np_random.normal(), *rest


@pytest.mark.fault("F25")
@pytest.mark.defect("B29")
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "careless"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_environments_in_processes_give_the_same_arrays(env: str) -> None:
    def make() -> gym.Env[Any, Any]:
        return Careless(6) if env == "careless" else gym.make(env, max_episode_steps=20)

    dummy, plain, sub = (
        LeanDummyVecEnv([make] * 2),
        DummyVecEnv([make] * 2),
        SubprocVecEnv([make] * 2, start_method="fork"),
    )
    policy = PPO("MlpPolicy", dummy, seed=0, device="cpu").policy
    found = [rollout(policy, venv, make_min_episodes(4), fresh()) for venv in (dummy, plain, sub)]
    sub.close()
    assert the_same(found[0], found[1])
    assert the_same(found[0], found[2])


class Payload:
    """Counts how many of its kind are alive."""

    alive = most = 0

    def __init__(self) -> None:
        Payload.alive += 1
        Payload.most = max(Payload.most, Payload.alive)

    def __deepcopy__(self, memo: Any) -> Payload:
        return Payload()

    def __del__(self) -> None:
        Payload.alive -= 1


class Talkative(Steps):
    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], {"payload": Payload()})


@pytest.mark.defect("C3")
def test_no_info_is_kept_unless_it_is_wanted() -> None:
    venv = LeanDummyVecEnv([lambda: Talkative(100)] * 2)
    Payload.most = Payload.alive = 0
    episodes(venv, 4)
    assert Payload.most <= 8, "those of this step and of the last, of two environments, and their copies"
    kept = episodes(venv, 4, exclude_infos=False)
    assert Payload.most >= 400
    assert len(kept) == 4


# --- under VecNormalize -----------------------------------------------------------------------------------------


def normalised(make: Callable[[], gym.Env[Any, Any]], **kwargs: Any) -> VecNormalize:
    venv = VecNormalize(LeanDummyVecEnv([make, make]), **kwargs)
    venv.reset()
    for _ in range(30):
        venv.step(np.zeros(2, dtype=int))
    return venv


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dictionary", [False, True])
def test_normalised_environments_are_recorded_as_they_are(dictionary: bool, training: bool) -> None:
    keys: dict[str, Any] = {"norm_obs_keys": ["at"]} if dictionary else {}
    # Clipped this tightly, an observation could not be computed back from its normalised form.
    venv = normalised(lambda: Steps(dictionary=dictionary), clip_obs=0.1, clip_reward=0.1, **keys)
    venv.training = training
    inside = venv.venv
    found = episodes(venv, 4, exclude_infos=False)
    assert venv.venv is inside
    for t in found:
        at = t.obs.get("at") if isinstance(t.obs, DictObs) else t.obs
        assert at[:, 1].tolist() == [0, 1, 2, 3]
        assert len(set(at[:, 0].tolist())) == 1, "all frames, the last one too, are of one episode"
        assert at.dtype == np.float32
        assert t.rews.tolist() == [1, 2, 3]
        assert t.infos is not None
    (wrapped, *_) = generate_trajectories(lambda obs: [0, 0], venv, make_min_episodes(1), fresh())
    seen = wrapped.obs.get("at") if isinstance(wrapped.obs, DictObs) else wrapped.obs
    assert np.abs(seen).max() <= 0.1 + 1e-6
    assert np.abs(wrapped.rews).max() <= 0.1 + 1e-6


class WholeNumbers(Steps):
    """Observes uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (2,), np.uint8)

    def _obs(self) -> Any:
        return np.array([7, 33 * self.t], dtype=np.uint8)


def test_normalised_whole_numbers_stay_whole_numbers() -> None:
    for t in episodes(normalised(WholeNumbers), 2):
        assert array(t.obs).tolist() == [[7, 0], [7, 33], [7, 66], [7, 99]]
        assert array(t.obs).dtype == np.uint8
    for t in episodes(normalised(WholeNumbers), 2, unwrap=False):
        assert array(t.obs).dtype == np.float32
        assert len(np.unique(array(t.obs)[:, 1])) == 4


def test_a_policy_acts_on_what_is_normalised() -> None:
    venv = normalised(Steps)
    venv.training = False
    seen = []

    def acting(obs: np.ndarray) -> np.ndarray:
        seen.append(obs.copy())
        return zeros(obs)

    found = episodes(venv, 2, acting)
    expected: Any = venv.normalize_obs(array(found[0].obs)[1])
    np.testing.assert_allclose(seen[1][0], expected, rtol=1e-6)
    assert not np.array_equal(seen[1][0], array(found[0].obs)[1])


def test_the_normaliser_is_put_back_when_something_breaks() -> None:
    venv = VecNormalize(LeanDummyVecEnv([Breaks]))
    inside = venv.venv
    with pytest.raises(RuntimeError, match="broken"):
        episodes(venv)
    assert venv.venv is inside


# --- numbers ----------------------------------------------------------------------------------------------------


def paid(*rews: float, info: dict[str, Any] | None = None) -> TrajectoryWithRew:
    n = len(rews)
    infos = None if info is None else [*[{}] * (n - 1), info]
    return TrajectoryWithRew(np.zeros((n + 1, 1)), np.zeros(n), infos, True, np.array(rews))


def test_statistics_by_hand() -> None:
    stats = rollout_stats([paid(1, 2), paid(5), paid(0, 0, 0, 10)])
    assert stats == {
        "n_traj": 3,
        "return_min": 3,
        "return_mean": 6,
        "return_std": pytest.approx(np.sqrt((9 + 1 + 16) / 3)),
        "return_max": 10,
        "len_min": 1,
        "len_mean": pytest.approx(7 / 3),
        "len_std": pytest.approx(np.sqrt(14) / 3),
        "len_max": 4,
    }
    assert all(type(value) in (int, float) for value in stats.values())


def test_the_true_return_that_a_monitor_kept() -> None:
    stats = rollout_stats([paid(1, info={"episode": {"r": 7}}), paid(2, info={}), paid(3, info={"episode": {"r": 9}})])
    assert (stats["return_mean"], stats["n_traj"]) == (2, 3)
    monitor = {key: value for key, value in stats.items() if key.startswith("monitor")}
    assert monitor == {
        "monitor_return_len": 2,
        "monitor_return_min": 7,
        "monitor_return_mean": 8,
        "monitor_return_std": 1,
        "monitor_return_max": 9,
    }
    venv = LeanDummyVecEnv([lambda: gym.wrappers.TransformReward(Monitor(Steps()), lambda r: 10 * float(r))])
    stats = rollout_stats(episodes(venv, exclude_infos=False))
    assert (stats["return_mean"], stats["monitor_return_mean"]) == (60, 6)


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(EmptyDataError):
        rollout_stats([])


def test_statistics_are_logged_when_verbose(caplog: pytest.LogCaptureFixture) -> None:
    venv = LeanDummyVecEnv([Steps])
    with caplog.at_level(logging.INFO, logger="understudy"):
        episodes(venv, verbose=False)
        assert not caplog.messages
        episodes(venv)
    assert "'return_mean': 6.0" in caplog.text


@pytest.mark.parametrize(
    ("rews", "gamma", "expected"),
    [
        ([1, 2, 4], 0.5, 3),
        ([1, 2, 4], 1.0, 7),
        ([1, 2, 4], 0.0, 1),
        ([], 0.5, 0),
        ([[1, 10], [2, 20], [4, 40]], 0.5, [3, 30]),
        ([[1, 10], [2, 20], [4, 40]], 1.0, [7, 70]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_discounted_sums_by_hand(rews: Any, gamma: float, expected: Any, dtype: Any) -> None:
    np.testing.assert_array_equal(discounted_sum(np.array(rews, dtype=dtype), gamma), expected)
    assert isinstance(discounted_sum(np.ones(2, dtype=dtype), gamma), float)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_discount_lies_between_0_and_1(gamma: float) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        discounted_sum(np.ones(3), gamma)


# --- gathering steps by hand ------------------------------------------------------------------------------------


def test_steps_gathered_by_hand() -> None:
    accumulator = TrajectoryAccumulator()
    for key in ("a", "b"):
        accumulator.add_step({"obs": np.array([0.0])}, key)
    for t in (1, 2):
        accumulator.add_step({"obs": np.array([t + 0.5]), "acts": t, "rews": 10.0 * t, "infos": {"t": t}}, "a")
    found = accumulator.finish_trajectory("a", terminal=True, truncated=True)
    assert array(found.obs).tolist() == [[0], [1.5], [2.5]]
    assert (found.acts.tolist(), found.rews.tolist()) == ([1, 2], [10, 20])
    assert found.infos is not None
    assert list(found.infos) == [{"t": 1}, {"t": 2}]
    assert found.truncated
    accumulator.add_step({"obs": np.array([9.0]), "acts": 3, "rews": 0.0}, "b")
    other = accumulator.finish_trajectory("b", terminal=False)
    assert (other.infos, other.terminal, len(other)) == (None, False, 1)
    with pytest.raises(DataError, match="'a'"):
        accumulator.finish_trajectory("a", terminal=True)


@pytest.mark.fault("F10")
def test_a_first_observation_is_no_trajectory() -> None:
    accumulator = TrajectoryAccumulator()
    accumulator.add_step({"obs": np.zeros(1)})
    with pytest.raises(EmptyDataError, match="first observation only"):
        accumulator.finish_trajectory(None, terminal=True)


@pytest.mark.parametrize("dictionary", [False, True])
def test_steps_of_many_environments_are_cut_at_their_ends(dictionary: bool) -> None:
    venv = LeanDummyVecEnv([lambda: Steps(2, dictionary=dictionary)] * 2)
    accumulator, obs = TrajectoryAccumulator(), venv.reset()
    rows: Any = DictObs(obs) if isinstance(obs, dict) else obs
    for env in range(2):
        accumulator.add_step({"obs": rows[env]}, env)
    found = []
    for _ in range(5):
        acts = np.array([0, 1])
        obs, rews, dones, infos = venv.step(acts)
        assert not isinstance(obs, tuple)
        found += accumulator.add_steps_and_auto_finish(acts, obs, rews, dones, infos)
    assert [len(t) for t in found] == [2, 2, 2, 2]
    for i, t in enumerate(found):
        at = t.obs.get("at") if isinstance(t.obs, DictObs) else t.obs
        assert at[:, 1].tolist() == [0, 1, 2]
        assert t.acts.tolist() == [i % 2] * 2
        assert t.terminated
    assert all(len(steps) == 2 for steps in accumulator.partial_trajectories.values())


# --- the recorder of episodes -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Naive:
    """The same with lists: for each environment the running episode's observations, actions, rewards, infos."""

    first: Any

    def __post_init__(self) -> None:
        self.running: list[Any] = [([row], [], [], []) for row in self.first]

    def add(self, acts: Any, obs: Any, rews: Any, dones: Any, infos: Any) -> list[tuple[int, Any]]:
        ended = []
        for env, (o, a, r, i) in enumerate(self.running):
            a.append(acts[env])
            r.append(rews[env])
            i.append(infos[env])
            o.append(infos[env].get("terminal_observation", obs[env]))
            if dones[env]:
                ended.append((env, self.take(env, obs[env])))
        return ended

    def take(self, env: int, first: Any) -> Any:
        taken, self.running[env] = self.running[env], ([first], [], [], [])
        return taken


def equal(trajectory: TrajectoryWithRew, naive: Any, *, keep_infos: bool) -> None:
    obs, acts, rews, infos = naive
    np.testing.assert_array_equal(array(trajectory.obs), np.stack(obs))
    np.testing.assert_array_equal(trajectory.acts, np.stack(acts))
    np.testing.assert_array_equal(trajectory.rews, np.stack(rews))
    assert (None if trajectory.infos is None else list(trajectory.infos)) == (infos if keep_infos else None)


@given(
    seed=st.integers(0, 2**16),
    n_envs=st.integers(1, 4),
    capacity=st.sampled_from([2, 3, 8]),
    p_done=st.sampled_from([0.02, 0.2, 0.6]),
    keep_infos=st.booleans(),
)
@settings(max_examples=60)
def test_the_recorder_does_what_lists_would(
    seed: int, n_envs: int, capacity: int, p_done: float, keep_infos: bool
) -> None:
    """Through growth and compaction, with cuts and forgotten episodes; what it was given is overwritten."""
    rng = fresh(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_episodes, "_FIRST_CAPACITY", capacity)
        obs = rng.normal(size=(n_envs, 2))
        naive, recorder = Naive(obs.copy()), EpisodeRecorder(obs, n_envs, keep_infos=keep_infos)
        for t in range(60):
            obs[:] = np.nan
            acts, rews, obs = rng.integers(9, size=n_envs), rng.normal(size=n_envs), rng.normal(size=(n_envs, 2))
            dones = rng.random(n_envs) < p_done
            infos: list[dict[str, Any]] = [{"t": t, "env": env} for env in range(n_envs)]
            for env in np.flatnonzero(dones).tolist():
                infos[env] |= {"terminal_observation": rng.normal(size=2), "TimeLimit.truncated": bool(env % 2)}
            expected = naive.add(acts.copy(), obs.copy(), rews.copy(), dones, infos)
            found = recorder.add(acts, obs, rews, dones, infos)
            acts[:], rews[:] = -1, np.nan
            assert [env for env, _ in found] == [env for env, _ in expected]
            for (env, mine), (_, theirs) in zip(found, expected, strict=True):
                equal(mine, theirs, keep_infos=keep_infos)
                assert (mine.terminal, mine.truncated) == (True, bool(env % 2))
            some = int(rng.integers(n_envs))
            if rng.random() < 0.1 and recorder.lengths()[some]:
                fragment = recorder.cut(some)
                equal(fragment, naive.take(some, obs[some].copy()), keep_infos=keep_infos)
                assert not fragment.terminal
            if rng.random() < 0.1:
                recorder.forget(some)
                naive.take(some, obs[some].copy())
            assert recorder.lengths().tolist() == [len(running[1]) for running in naive.running]


@pytest.mark.parametrize("length", [255, 256, 257, 1000])
def test_episodes_longer_than_the_recorders_first_rows(length: int) -> None:
    found = episodes(LeanDummyVecEnv([lambda: Steps(length), lambda: Steps(3)]), 2)
    (long,) = [t for t in found if len(t) == length]
    np.testing.assert_array_equal(array(long.obs)[:, 1], np.arange(length + 1))
    np.testing.assert_array_equal(long.rews, np.arange(1, length + 1))


def test_memory_does_not_grow_with_the_number_of_short_episodes() -> None:
    recorder = EpisodeRecorder(np.zeros((2, 1)), 2)
    for t in range(2000):
        over = np.array([t % 5 == 4, t % 7 == 6])
        infos: list[dict[str, Any]] = [{"terminal_observation": np.zeros(1)}] * 2
        recorder.add(np.zeros(2), np.zeros((2, 1)), np.zeros(2), over, infos)
    assert len(recorder._obs[""].rows) == 256
    assert len(recorder._infos) <= 256


def test_rewards_in_the_recorder_may_be_whole_numbers_before_they_are_fractions() -> None:
    recorder = EpisodeRecorder(np.zeros((1, 1)), 1)
    for rew in (0, 0.75):
        recorder.add(np.zeros(1), np.zeros((1, 1)), np.array([rew]), np.zeros(1, bool), [{}])
    found = recorder.cut(0)
    assert found.rews.tolist() == [0, 0.75]
    assert found.rews.dtype == np.float32


def test_dictionaries_in_the_recorder() -> None:
    recorder = EpisodeRecorder({"a": np.array([[1.0]]), "n": np.array([5])}, 1)
    recorder.add(np.zeros(1), {"a": np.array([[2.0]]), "n": np.array([6])}, np.ones(1), np.zeros(1, bool), [{}])
    last = {"a": np.array([9.0]), "n": 7}
    ((env, found),) = recorder.add(
        np.zeros(1),
        {"a": np.array([[0.0]]), "n": np.array([0])},
        np.ones(1),
        np.ones(1, bool),
        [{"terminal_observation": last, "TimeLimit.truncated": True}],
    )
    assert env == 0
    assert found.truncated
    assert found.obs == DictObs({"a": np.array([[1.0], [2.0], [9.0]]), "n": np.array([5, 6, 7])})
