"""Recording an expert into the archive of Stable-Baselines 2."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from understudy.data.demonstrations import as_demonstrations
from understudy.data.stable_baselines import ExpertDataset, generate_expert_traj
from understudy.errors import (
    ConfigError,
    DataError,
    FileWriteError,
    MissingExtraError,
    NonFiniteDataError,
    SpaceMismatchError,
    UnsupportedSpaceError,
)

KEYS = ["actions", "episode_returns", "episode_starts", "obs", "rewards", "terminal_obs", "truncated"]


class Counting(gym.Env[Any, Any]):
    """Observes (episode, step); pays the step's number; episode e lasts e + 2 steps, of which odd ones are cut."""

    def __init__(self, observation: Any = None, action_space: gym.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(5) if action_space is None else action_space
        if observation is not None:
            self.observation_space = observation
        self.episode, self.step_number, self.closed = -1, 0, 0
        self.acts: list[Any] = []

    def observe(self) -> Any:
        if isinstance(self.observation_space, spaces.Discrete):
            return self.step_number
        if self.observation_space.shape == (2,):
            return np.array([self.episode, self.step_number], np.float32)
        rng = np.random.default_rng([max(self.episode, 0), self.step_number])
        return rng.integers(0, 256, self.observation_space.shape).astype(np.uint8)

    def reset(self, **options: Any) -> Any:
        super().reset(seed=options.get("seed"))
        self.episode += 1
        self.step_number = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.acts.append(action)
        self.step_number += 1
        over = self.step_number == self.episode + 2
        odd = self.episode % 2 == 1
        return self.observe(), float(self.step_number), over and not odd, over and odd, {}

    def close(self) -> None:
        self.closed += 1


def record(model: Any, *args: Any, **options: Any) -> dict[str, np.ndarray]:
    return generate_expert_traj(model, *args, progress_bar=False, **options)


def images(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


# What is recorded


def test_the_columns_by_hand(tmp_path: Path) -> None:
    env = Counting()
    found = record(lambda obs: int(obs[1]) % 5, tmp_path / "expert", env, n_episodes=2)
    assert sorted(found) == KEYS
    assert found["obs"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert found["actions"].tolist() == [[0], [1], [0], [1], [2]]
    assert found["rewards"].tolist() == [1.0, 2.0, 1.0, 2.0, 3.0]
    assert found["episode_returns"].tolist() == [3.0, 6.0]
    assert found["episode_starts"].tolist() == [True, False, True, False, False]
    assert found["terminal_obs"].tolist() == [[0, 2], [1, 3]]
    assert found["truncated"].tolist() == [False, True]
    kinds = {name: array.dtype.str for name, array in found.items()}
    assert kinds == {
        "actions": "<i8",
        "obs": "<f4",
        "rewards": "<f8",
        "episode_returns": "<f8",
        "episode_starts": "|b1",
        "terminal_obs": "<f4",
        "truncated": "|b1",
    }
    with np.load(tmp_path / "expert.npz", allow_pickle=False) as archive:
        assert sorted(archive) == KEYS
        for name in KEYS:
            np.testing.assert_array_equal(archive[name], found[name])
            assert archive[name].dtype == found[name].dtype
    assert [path.name for path in tmp_path.iterdir()] == ["expert.npz"]


@pytest.mark.defect("B5")
def test_what_was_recorded_comes_back_with_its_ends(tmp_path: Path) -> None:
    record(lambda obs: 0, str(tmp_path / "expert.npz"), Counting(), n_episodes=2)
    for demos in (
        as_demonstrations(tmp_path / "expert.npz"),
        as_demonstrations(ExpertDataset(tmp_path / "expert.npz", verbose=0)),
    ):
        assert demos.acts.shape == (5,)
        assert demos.dones.tolist() == [False, True, False, False, False]
        assert demos.truncated.tolist() == [False, False, False, False, True]
        assert demos.obs.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
        assert demos.next_obs.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [1, 3]]
        assert demos.episode_returns().tolist() == [3.0, 6.0]
    first = as_demonstrations(ExpertDataset(tmp_path / "expert.npz", traj_limitation=1, verbose=0))
    assert first.next_obs.tolist() == [[0, 1], [0, 2]]
    legacy = ExpertDataset(tmp_path / "expert.npz", traj_limitation=1, verbose=0, legacy=True)
    assert as_demonstrations(legacy).next_obs is None


def test_a_vectorised_environment_gives_the_same_columns_without_objects(tmp_path: Path) -> None:
    venv = DummyVecEnv([Counting])
    found = record(lambda obs: obs[:, 1].astype(int) % 5, tmp_path / "expert", venv, n_episodes=2)
    plain = record(lambda obs: int(obs[1]) % 5, None, Counting(), n_episodes=2)
    for name in KEYS:
        np.testing.assert_array_equal(found[name], plain[name])
        assert found[name].shape == plain[name].shape
    assert ExpertDataset(tmp_path / "expert.npz", verbose=0).returns.tolist() == [3.0, 6.0]


def test_of_several_environments_the_first_is_recorded() -> None:
    venv = DummyVecEnv([Counting, Counting, Counting])
    with pytest.warns(UserWarning, match="3 environments"):
        found = record(lambda obs: [1, 2, 3], None, venv, n_episodes=2)
    assert set(found["actions"][:, 0]) == {1}
    assert found["episode_returns"].tolist() == [3.0, 6.0]


def test_discrete_observations_get_an_axis() -> None:
    found = record(lambda obs: 0, None, Counting(spaces.Discrete(9)), n_episodes=2)
    assert found["obs"].tolist() == [[0], [1], [0], [1], [2]]
    assert found["terminal_obs"].tolist() == [[2], [3]]


def test_box_actions_keep_shape_and_type() -> None:
    env = Counting(action_space=spaces.Box(-1, 1, (2, 1), np.float32))
    found = record(lambda obs: np.full((2, 1), 0.5, np.float32), None, env, n_episodes=1)
    assert (found["actions"].shape, found["actions"].dtype) == ((2, 2, 1), "float32")


def test_observations_that_an_environment_overwrites_are_copied() -> None:
    class Reusing(Counting):
        shared = np.zeros(2, np.float32)

        def observe(self) -> Any:
            self.shared[:] = self.episode, self.step_number
            return self.shared

    assert record(lambda obs: 0, None, Reusing(), n_episodes=1)["obs"].tolist() == [[0, 0], [0, 1]]


# Who acts, and how


def asked(model: Any, **options: Any) -> dict[str, Any]:
    """What ``predict`` is asked with first."""
    calls: list[dict[str, Any]] = []
    original = model.predict

    def predict(obs: Any, **asked_with: Any) -> Any:
        calls.append(asked_with)
        return original(obs, **asked_with)

    model.predict = predict
    record(model, n_episodes=1, **options)
    del model.predict
    return calls[0]


def test_off_policy_models_act_deterministically_by_default_and_on_policy_ones_do_not() -> None:
    ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    dqn = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu")
    sac = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu")
    assert asked(ppo)["deterministic"] is False
    assert asked(dqn)["deterministic"] is True
    assert asked(sac)["deterministic"] is True
    assert asked(ppo, deterministic=True)["deterministic"] is True
    assert asked(dqn, deterministic=False)["deterministic"] is False


def test_recurrent_state_is_handed_on_and_episode_starts_are_told() -> None:
    class Remembers:
        seen: list[Any] = []  # noqa: RUF012

        def predict(self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
            self.seen.append((state, episode_start.tolist()))
            return 0, 0 if state is None else state + 1

    record(Remembers(), None, Counting(), n_episodes=2)
    assert Remembers.seen == [(None, [True]), (0, [False]), (1, [True]), (2, [False]), (3, [False])]


def test_a_recurrent_model_of_sb3_contrib_records() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, device="cpu")
    for env in (None, "CartPole-v1"):
        assert len(record(model, env=env, n_episodes=2)["episode_returns"]) == 2


def test_a_model_learns_first_if_asked_and_can_go_on_after(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    record(model, tmp_path / "expert", n_timesteps=32, n_episodes=1)
    assert model.num_timesteps == 32
    # Its own environment was moved on by recording: the observation it remembered is not the environment's any more.
    resets = 0
    env = model.get_env()
    original = env.reset

    def reset() -> Any:
        nonlocal resets
        resets += 1
        return original()

    env.reset = reset
    model.learn(16, reset_num_timesteps=False)
    assert resets == 1


def test_a_model_without_an_environment_learns_and_records_in_the_one_given() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.env = None
    assert len(record(model, env=gym.make("CartPole-v1"), n_timesteps=16, n_episodes=1)["episode_returns"]) == 1


@pytest.mark.defect("B29")
def test_one_generator_decides_all_and_puts_the_others_back() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    env = gym.make("CartPole-v1")

    def dummy_expert(_obs: Any) -> Any:
        return env.action_space.sample()

    for expert, where in ((model, None), (model, env), (dummy_expert, env)):
        before = torch.get_rng_state()
        one, two, other = (record(expert, None, where, n_episodes=2, rng=np.random.default_rng(s)) for s in (0, 0, 1))
        assert all(np.array_equal(one[name], two[name]) for name in KEYS)
        assert not np.array_equal(one["obs"], other["obs"])
        assert torch.equal(torch.get_rng_state(), before)


def test_only_an_environment_made_here_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Counting()
    record(lambda obs: 0, None, env, n_episodes=1)
    assert env.closed == 0
    monkeypatch.setattr(gym, "make", lambda name: env)
    record(lambda obs: 0, None, "Counting-v0", n_episodes=1)
    assert env.closed == 1


# Images


@pytest.mark.parametrize("shape", [(8, 9, 1), (8, 9, 3), (8, 9, 4), (3, 9, 8), (1, 9, 8), (4, 9, 8)])
def test_images_go_into_files_without_loss_and_are_found_after_a_move(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = record(lambda obs: 0, tmp_path / "here" / "expert", Counting(images(*shape)), n_episodes=2)
    memory = np.stack([np.random.default_rng([e, s]).integers(0, 256, shape) for e, s in ((0, 0), (0, 1), (1, 0))])
    (tmp_path / "here").rename(tmp_path / "there")
    with np.load(tmp_path / "there" / "expert.npz", allow_pickle=False) as archive:
        assert archive["obs"].tolist() == [f"recorded_images/{n}.png" for n in (0, 1, 3, 4, 5)]
        assert archive["terminal_obs"].tolist() == ["recorded_images/2.png", "recorded_images/6.png"]
    assert found["obs"][0] == str(tmp_path / "here" / "recorded_images" / "0.png")
    last = memory if shape[2] in (1, 3, 4) else memory.transpose(0, 2, 3, 1)
    demos = as_demonstrations(tmp_path / "there" / "expert.npz")
    np.testing.assert_array_equal(demos.obs[:3], last)
    assert demos.next_obs.shape == demos.obs.shape
    fitted = as_demonstrations(tmp_path / "there" / "expert.npz", observation_space=images(*shape))
    np.testing.assert_array_equal(fitted.obs[:3], memory)


def test_what_is_returned_can_be_used_at_once(in_tmp: Path) -> None:
    found = record(lambda obs: 0, "expert", Counting(images(8, 9, 3)), n_episodes=1)
    data = ExpertDataset(traj_data=found, train_fraction=1, verbose=0)
    assert data.get_next_batch("train")[0].shape == (2, 8, 9, 3)


def test_a_model_that_sees_channels_first_records_the_same_pictures(tmp_path: Path) -> None:
    venv = VecTransposeImage(DummyVecEnv([lambda: Counting(images(40, 41, 3))]))
    record(lambda obs: [0], tmp_path / "a", venv, n_episodes=1)
    record(lambda obs: 0, tmp_path / "b", Counting(images(40, 41, 3)), n_episodes=1)
    one, two = (as_demonstrations(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(one.obs, two.obs)
    assert (tmp_path / "recorded_images" / "5.png").is_file()  # the second never writes over the first's three


def test_earlier_images_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"mine")
    record(lambda obs: 0, tmp_path / "a", Counting(images(8, 9, 3)), n_episodes=1, image_folder="pictures")
    assert (folder / "1.png").read_bytes() == b"mine"
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("image_format", ["jpg", "jpeg"])
def test_jpegs_on_request(tmp_path: Path, image_format: Any) -> None:
    record(lambda obs: 0, tmp_path / "a", Counting(images(8, 9, 3)), n_episodes=1, image_format=image_format)
    assert (tmp_path / "recorded_images" / "0.jpg").read_bytes().startswith(b"\xff\xd8")
    assert as_demonstrations(tmp_path / "a.npz").obs.shape == (2, 8, 9, 3)
    with pytest.raises(ConfigError, match="4 channels"):
        record(lambda obs: 0, tmp_path / "b", Counting(images(8, 9, 4)), image_format=image_format)


def test_images_that_cannot_go_into_files_stay_in_the_archive_with_a_word(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="stay in memory") as caught:
        found = record(lambda obs: 0, None, Counting(images(8, 9, 3)), n_episodes=1)
    assert len(caught) == 1
    assert (found["obs"].shape, found["obs"].dtype) == ((2, 8, 9, 3), "uint8")
    with pytest.warns(UserWarning, match="12 channels"):
        record(lambda obs: 0, tmp_path / "a", Counting(images(20, 21, 12)), n_episodes=1)
    assert as_demonstrations(tmp_path / "a.npz").obs.shape == (2, 20, 21, 12)


@pytest.mark.parametrize("folder", ["/tmp/pictures", "../pictures", "a/../../b"])
def test_images_go_nowhere_but_below_the_archive(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="image_folder"):
        record(lambda obs: 0, tmp_path / "a", Counting(images(8, 9, 3)), image_folder=folder)


def test_without_pillow_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    env = Counting(images(8, 9, 3))
    with pytest.raises(MissingExtraError, match="pillow"):
        record(lambda obs: 0, tmp_path / "a", env, n_episodes=1)
    assert env.episode == -1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "recorded_images").write_text("a file")
    with pytest.raises(FileWriteError, match="recorded_images"):
        record(lambda obs: 0, tmp_path / "a", Counting(images(8, 9, 3)), n_episodes=1)


def test_a_place_that_cannot_be_written_to_is_named_before_anything_is_recorded(tmp_path: Path) -> None:
    env = Counting()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileWriteError, match=r"expert\.npz"):
        record(lambda obs: 0, tmp_path / "file" / "expert", env)
    (tmp_path / "older.npz").mkdir()
    with pytest.raises(DataError, match="a folder"):
        record(lambda obs: 0, tmp_path / "older", env)
    assert (tmp_path / "older.npz").is_dir()
    assert env.episode == -1


# When it is interrupted


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("observation", [None, images(8, 9, 3)])
def test_finished_episodes_are_saved_beside_what_stood_there(
    tmp_path: Path, error: type[BaseException], observation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "expert.npz").write_bytes(b"the old one")
    calls = 0

    def expert(obs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the third episode, after its first two steps
            raise error
        return 0

    with pytest.raises(error):
        record(expert, tmp_path / "expert", Counting(observation))
    assert (tmp_path / "expert.npz").read_bytes() == b"the old one"
    demos = as_demonstrations(tmp_path / "expert.interrupted.npz")
    assert demos.episode_offsets.tolist() == [0, 2, 5]
    assert "the 2 episodes that had finished are in" in caplog.text
    if observation is not None:
        assert len(list((tmp_path / "recorded_images").iterdir())) == 7  # none of the episode that was dropped


def test_with_nothing_finished_nothing_is_written(tmp_path: Path) -> None:
    def expert(obs: Any) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(expert, tmp_path / "expert", Counting())
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_end_the_recording_and_name_the_step(tmp_path: Path) -> None:
    class Breaks(Counting):
        def observe(self) -> Any:
            obs = super().observe()
            return obs * np.nan if (self.episode, self.step_number) == (1, 1) else obs

    with pytest.raises(NonFiniteDataError, match=r"observation.*episode 1, step 1"):
        record(lambda obs: 0, tmp_path / "a", Breaks())
    assert as_demonstrations(tmp_path / "a.interrupted.npz").episode_offsets.tolist() == [0, 2]
    box = Counting(action_space=spaces.Box(-1, 1, (1,)))
    with pytest.raises(NonFiniteDataError, match=r"action.*episode 0, step 0"):
        record(lambda obs: [np.nan], None, box)


# What is refused


def test_an_environment_is_needed() -> None:
    with pytest.raises(ConfigError, match="env=gymnasium"):
        record(lambda obs: 0)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    model.env = None
    with pytest.raises(ConfigError, match="env=gymnasium"):
        record(model)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda obs: 0, {"n_episodes": 0}, "n_episodes"),
        (lambda obs: 0, {"n_timesteps": 5}, "learn"),
        (lambda obs: 0, {"deterministic": True}, "deterministic"),
        (3, {}, "callable"),
    ],
)
def test_arguments_out_of_range_are_refused(model: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        record(model, None, Counting(), **options)


@pytest.mark.usefixtures("as_users_run_it")
def test_other_environments_and_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match="shimmy"):
        record(lambda obs: 0, None, object())
    with pytest.raises(ConfigError, match="image_format"):
        record(lambda obs: 0, None, Counting(), image_format="gif")


def test_nested_spaces_are_refused_with_another_way() -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"understudy\.data\.rollout"):
        record(lambda obs: 0, None, Counting(spaces.Dict({"a": spaces.Discrete(2)})))


@pytest.mark.parametrize("act", [[0, 1], 0.5, "left", np.zeros((1, 2))])
def test_actions_that_do_not_fit_are_refused(act: Any) -> None:
    with pytest.raises(SpaceMismatchError, match="Discrete"):
        record(lambda obs: act, None, Counting())


def test_a_model_for_another_environment_is_refused() -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(SpaceMismatchError, match="observation space"):
        record(model, None, Counting())


# As the older library's manual has it


def test_the_manuals_examples_run(in_tmp: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, device="cpu")
    generate_expert_traj(model, "expert_cartpole", n_timesteps=50, n_episodes=10)
    env = gym.make("CartPole-v1")

    def dummy_expert(_obs: Any) -> Any:
        return env.action_space.sample()

    generate_expert_traj(dummy_expert, "dummy_expert_cartpole", env, n_episodes=10)
    dataset = ExpertDataset(expert_path="expert_cartpole.npz", traj_limitation=1, batch_size=128)
    assert dataset.num_traj == 1
    assert dataset.observations.shape == (dataset.returns[0], 4)
    assert ExpertDataset("dummy_expert_cartpole.npz", verbose=0).num_traj == 10
