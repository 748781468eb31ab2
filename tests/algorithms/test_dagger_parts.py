"""Beta schedules, the collector, the store, relabelling: each on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _dagger_small import asked_for, told_in, venv_of
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms import dagger
from understudy.algorithms._dagger_beta import beta_of, schedule_from, schedule_state
from understudy.algorithms._dagger_demos import DemoStore, demo_files
from understudy.algorithms._dagger_expert import checked_actions
from understudy.data import rollout, serialize
from understudy.data.types import Trajectory
from understudy.errors import CallOrderError, ConfigError, DataError


def right(venv: VecEnv) -> Any:
    return lambda obs: asked_for(told_in(obs), venv.action_space)


def wrong(venv: VecEnv) -> Any:
    return lambda obs: (asked_for(told_in(obs), venv.action_space) + 1) % 3


# --- how often the expert acts -----------------------------------------------------------------------------------


def test_linear_falls_by_the_same_step_to_zero() -> None:
    schedule = dagger.LinearBetaSchedule(4)
    assert [schedule(i) for i in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [dagger.LinearBetaSchedule(1)(i) for i in range(3)] == [1.0, 0.0, 0.0]


def test_exponential_is_a_power() -> None:
    schedule = dagger.ExponentialBetaSchedule(0.5)
    assert [schedule(i) for i in range(4)] == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, np.nan])
def test_decay_outside_its_range(p: float) -> None:
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        dagger.ExponentialBetaSchedule(p)


def test_rampdown_below_one() -> None:
    with pytest.raises(ConfigError, match="rampdown_rounds"):
        dagger.LinearBetaSchedule(0)


def test_any_callable_is_a_schedule_but_must_give_probabilities() -> None:
    assert beta_of(lambda i: 1 / (1 + i), 3) == 0.25
    with pytest.raises(ConfigError, match="round 2"):
        beta_of(lambda i: 1 + i, 2)


@pytest.mark.parametrize("schedule", [dagger.LinearBetaSchedule(7), dagger.ExponentialBetaSchedule(0.9)])
def test_schedules_are_kept_as_plain_values(schedule: Any) -> None:
    again = schedule_from(schedule_state(schedule), None)
    assert type(again) is type(schedule)
    assert [again(i) for i in range(9)] == [schedule(i) for i in range(9)]
    with pytest.raises(ConfigError, match="beta_schedule"):
        schedule_from(schedule_state(lambda i: 0.0), None)


# --- the collector -----------------------------------------------------------------------------------------------


def collect(folder: Path, beta: float, steps: int, n_envs: int = 2, **options: Any) -> tuple[Any, list[Trajectory]]:
    venv = venv_of(n_envs)
    collector = dagger.InteractiveTrajectoryCollector(venv, wrong(venv), beta, folder, 0, **options)
    collector.seed(3)
    obs = collector.reset()
    for _ in range(steps):
        obs, _, _, _ = collector.step(right(venv)(obs))
    return collector, [serialize.load(path)[0] for path in demo_files(folder)]


def test_an_episode_is_a_file_when_it_ends(tmp_path: Path) -> None:
    _, episodes = collect(tmp_path / "demos" / "round-000", 1.0, 25)
    assert [path.name for path in demo_files(tmp_path / "demos" / "round-000")] == [
        f"demos_round_000_{i:03d}.npz" for i in range(4)
    ]
    assert [len(each) for each in episodes] == [10] * 4
    assert all(each.truncated and each.terminal for each in episodes)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_saved_actions_are_the_experts_whoever_acted(beta: float, tmp_path: Path) -> None:
    _, episodes = collect(tmp_path, beta, 200, n_envs=4)
    shares = []
    for episode in episodes:
        expert = asked_for(told_in(episode.obs[:-1]), spaces.Discrete(3))
        assert np.array_equal(episode.acts, expert)
        for t, info in enumerate(episode.infos):
            assert info["expert_action"] == expert[t]
            assert info["policy_action"] == (expert[t] + 1) % 3
            # An action is paid where it is the right one: the reward tells whose was executed.
            assert info["actor"] == ("expert" if episode.rews[t] else "policy")
            shares.append(info["actor"] == "expert")
    assert len(shares) == 800
    assert abs(np.mean(shares) - beta) < 0.06  # 3.7 standard errors


def test_each_environment_draws_for_itself(tmp_path: Path) -> None:
    venv = venv_of(4)
    collector = dagger.InteractiveTrajectoryCollector(venv, wrong(venv), 0.5, tmp_path, 0)
    obs = collector.reset()
    mixed = 0
    for _ in range(20):
        obs, _, _, infos = collector.step(right(venv)(obs))
        mixed += len({info["actor"] for info in infos}) == 2
    assert mixed > 10  # 7 in 8 expected


def test_infos_keep_plain_values_and_drop_what_no_file_holds(tmp_path: Path) -> None:
    _, episodes = collect(tmp_path, 1.0, 10)
    assert [info["t"] for info in episodes[0].infos] == list(range(1, 11))
    assert "cause" not in episodes[0].infos[0]


def test_seeding_decides_everything(tmp_path: Path) -> None:
    runs = [collect(tmp_path / str(i), 0.5, 20)[1] for i in range(2)]
    assert runs[0] == runs[1]


def test_stepping_before_reset(tmp_path: Path) -> None:
    venv = venv_of()
    collector = dagger.InteractiveTrajectoryCollector(venv, wrong(venv), 0.5, tmp_path, 0)
    assert collector.traj_accum is None
    with pytest.raises(CallOrderError, match=r"reset\(\)"):
        collector.step(np.zeros(2, int))


def test_beta_outside_its_range(tmp_path: Path) -> None:
    venv = venv_of()
    with pytest.raises(ConfigError, match="beta"):
        dagger.InteractiveTrajectoryCollector(venv, wrong(venv), 1.5, tmp_path, 0)


def test_another_collector_replaces_nothing(tmp_path: Path) -> None:
    collect(tmp_path, 1.0, 10)
    before = {path: path.read_bytes() for path in demo_files(tmp_path)}
    collect(tmp_path, 0.0, 10)
    assert len(demo_files(tmp_path)) == 4
    assert all(path.read_bytes() == content for path, content in before.items())


def test_running_episodes_can_be_saved_as_fragments(tmp_path: Path) -> None:
    collector, _ = collect(tmp_path, 1.0, 14)
    assert collector.save_running() == 2
    fragments = [serialize.load(path)[0] for path in demo_files(tmp_path)][2:]
    assert [(len(each), each.terminal) for each in fragments] == [(4, False)] * 2


def test_a_gate_decides_who_drives(tmp_path: Path) -> None:
    gate = lambda obs, acts: told_in(obs)[:, 3] > 0  # noqa: E731
    _, episodes = collect(tmp_path, 1.0, 30, gate=gate)
    for episode in episodes:
        takeover = gate(episode.obs[:-1], None)
        assert [info["actor"] == "expert" for info in episode.infos] == takeover.tolist()
        assert [info["expert_action"] is not None for info in episode.infos] == takeover.tolist()
        assert np.array_equal(episode.rews > 0, takeover)
    store = DemoStore(tmp_path.parent)
    for path in demo_files(tmp_path):
        store.wrote(path, serialize.load(path)[0])
    for episode in episodes:
        store._take(episode, "")
    demos = store.demonstrations()
    assert len(demos) == sum(int(gate(each.obs[:-1], None).sum()) for each in episodes) < store.n_steps
    assert (told_in(demos.obs)[:, 3] > 0).all()
    assert np.array_equal(demos.acts, asked_for(told_in(demos.obs), spaces.Discrete(3)))


def test_a_gate_answers_in_booleans(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="booleans"):
        collect(tmp_path, 1.0, 1, gate=lambda obs, acts: np.zeros(5))


def test_actions_outside_a_box_are_executed_clipped_and_kept(tmp_path: Path) -> None:
    venv = venv_of(1, act="Box")
    collector = dagger.InteractiveTrajectoryCollector(venv, lambda obs: np.zeros((1, 2), np.float32), 1.0, tmp_path, 0)
    collector.reset()
    collector.step_async(np.array([[3.0, 0.5]], np.float32))
    assert np.array_equal(venv.actions, [[1.0, 0.5]])  # type: ignore[attr-defined]
    collector.step_wait()
    collector.save_running()
    assert np.array_equal(serialize.load(demo_files(tmp_path)[0])[0].acts, [[3.0, 0.5]])


# --- the store ---------------------------------------------------------------------------------------------------


@pytest.mark.defect("C7")
def test_only_files_not_seen_before_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    load = serialize.load
    monkeypatch.setattr(serialize, "load", lambda path, **options: (reads.append(path), load(path, **options))[1])
    collect(tmp_path / "round-000", 1.0, 20)
    reads.clear()
    store = DemoStore(tmp_path)
    assert store.take_round(0) == 4
    assert len(reads) == store.files_read == 4
    collect(tmp_path / "round-000", 1.0, 10)
    reads.clear()
    assert store.take_round(0) == 6
    assert sorted(reads) == demo_files(tmp_path / "round-000")[4:]
    reads.clear()
    assert store.take_round(0) == 6
    assert reads == []
    assert len(store) == store.n_steps == 60


def test_the_store_holds_what_the_files_hold(tmp_path: Path) -> None:
    _, episodes = collect(tmp_path / "round-000", 0.5, 30)
    store = DemoStore(tmp_path)
    store.take_round(0)
    demos = store.demonstrations()
    flat = rollout.flatten_trajectories(episodes)
    assert np.array_equal(demos.obs, flat.obs)
    assert np.array_equal(demos.next_obs, flat.next_obs)
    assert np.array_equal(demos.acts, flat.acts)
    assert demos.episode_offsets.tolist() == [0, 10, 20, 30, 40, 50, 60]


def test_a_file_of_another_environment_is_named(tmp_path: Path) -> None:
    collect(tmp_path / "round-000", 1.0, 10)
    odd = Trajectory(obs=np.zeros((3, 5), np.float32), acts=np.zeros(2, int), infos=None, terminal=True)
    serialize.save(tmp_path / "round-000" / "demos_round_000_007.npz", [odd])
    with pytest.raises(DataError, match="007"):
        DemoStore(tmp_path).take_round(0)


# --- what an expert may answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "answer"),
    [
        (spaces.Discrete(3), [0, 3]),
        (spaces.Discrete(3, start=3), [2, 3]),
        (spaces.Discrete(3), [0.5, 1]),
        (spaces.Discrete(3), [1]),
        (spaces.Discrete(3), ["a", "b"]),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [2, 0]]),
        (spaces.MultiBinary(2), [[0, 1], [0, 2]]),
        (spaces.Box(-1, 1, (1,)), [[0.0], [np.nan]]),
        (spaces.Box(-1, 1, (1,)), [0.0, 0.0, 0.0]),
    ],
)
def test_answers_that_are_no_actions(space: Any, answer: Any) -> None:
    with pytest.raises(DataError, match="expert"):
        checked_actions(answer, space, 2)


def test_answers_take_the_type_of_the_space() -> None:
    assert checked_actions([1.0, 2.0], spaces.Discrete(3), 2).dtype == np.int64
    assert checked_actions([[0.1], [0.2]], spaces.Box(-1, 1, (1,)), 2).dtype == np.float32
    assert checked_actions(2, spaces.Discrete(3), 1).tolist() == [2]


# --- relabelling ---------------------------------------------------------------------------------------------------


def test_recorded_trajectories_get_the_experts_actions(rng: np.random.Generator) -> None:
    venv = venv_of(2)
    recorded = rollout.generate_trajectories(wrong(venv), venv, rollout.make_min_episodes(3), rng)
    labelled = list(dagger.relabel(recorded, right(venv), venv))
    assert len(labelled) == len(recorded)
    for before, after in zip(recorded, labelled, strict=True):
        assert np.array_equal(after.acts, asked_for(told_in(before.obs[:-1]), venv.action_space))
        assert np.array_equal(after.obs, before.obs)
        assert np.array_equal(after.rews, before.rews)  # type: ignore[attr-defined]
        assert after.truncated
        assert [info["policy_action"] for info in after.infos] == before.acts.tolist()
        assert {info["actor"] for info in after.infos} == {"policy"}


def test_relabelling_asks_nothing_twice_after_a_crash(tmp_path: Path, rng: np.random.Generator) -> None:
    venv = venv_of(1)
    recorded = rollout.generate_trajectories(wrong(venv), venv, rollout.make_min_episodes(3), rng)
    asked = 0

    def expert(obs: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise RuntimeError("the line went dead")
        return asked_for(told_in(obs), venv.action_space)

    with pytest.raises(RuntimeError, match="dead"):
        list(dagger.relabel(recorded, expert, venv, journal_folder=tmp_path))
    labelled = list(dagger.relabel(recorded, expert, venv, journal_folder=tmp_path))
    assert asked == 4
    assert labelled == list(dagger.relabel(recorded, right(venv), venv))
