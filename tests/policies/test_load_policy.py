"""load_policy by name: files, models, trust, spaces, and loaders of one's own."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from understudy.errors import ConfigError, CorruptFileError, RegistryError, SpaceMismatchError
from understudy.policies.base import RandomPolicy, ZeroPolicy
from understudy.policies.serialize import (
    STABLE_BASELINES_CLASSES,
    SavePolicyCallback,
    load_policy,
    load_stable_baselines_model,
    policy_registry,
    save_policy,
    save_stable_model,
)
from understudy.policies.vec_normalize import load_vec_normalize
from understudy.util.vec_env import make_vec_env


def small() -> dict[str, object]:
    """Options for a tiny model; new each time, because SB3 writes into ``policy_kwargs``."""
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}


ALGORITHMS = {
    "ppo": (PPO, "CartPole-v1", {"n_steps": 16, "batch_size": 16}),
    "a2c": (A2C, "CartPole-v1", {}),
    "dqn": (DQN, "CartPole-v1", {"buffer_size": 10}),
    "sac": (SAC, "Pendulum-v1", {"buffer_size": 10}),
    "td3": (TD3, "Pendulum-v1", {"buffer_size": 10}),
    "ddpg": (DDPG, "Pendulum-v1", {"buffer_size": 10}),
}


@pytest.fixture
def ppo(cartpole_venv) -> PPO:
    return PPO("MlpPolicy", cartpole_venv, n_steps=16, batch_size=16, **small())


def same_actions(first, second, space) -> bool:
    obs = np.stack([space.sample() for _ in range(20)])
    return np.array_equal(first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0])


def test_every_algorithm_has_a_class():
    assert STABLE_BASELINES_CLASSES.keys() == ALGORITHMS.keys()
    assert set(policy_registry.keys()) >= {*ALGORITHMS, "random", "zero", "bundled"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_model_comes_back_without_pickle_in_every_form(name, tmp_path, rng):
    cls, env_id, kwargs = ALGORITHMS[name]
    venv = make_vec_env(env_id, rng=rng, n_envs=1)
    model = cls("MlpPolicy", venv, **small(), **kwargs)
    save_stable_model(tmp_path, model)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.zip", "policy.safetensors"]
    for path in (tmp_path, tmp_path / "model.zip", str(tmp_path / "policy.safetensors")):
        loaded = load_policy(name, venv, path=path, device="cpu")
        assert same_actions(model.policy, loaded, venv.observation_space)
    venv.close()


def test_a_bare_zip_is_read_with_trust_and_without(tmp_path, ppo, cartpole_venv):
    ppo.save(tmp_path / "model.zip")
    for path in (tmp_path, tmp_path / "model.zip"):
        for trust in (None, "pickle"):
            loaded = load_policy("ppo", cartpole_venv, path=path, trust=trust, device="cpu")
            assert same_actions(ppo.policy, loaded, cartpole_venv.observation_space)
            assert not loaded.training
    with pytest.raises(ConfigError, match="trust='yes'"):
        load_policy("ppo", cartpole_venv, path=tmp_path, trust="yes")


def test_a_policy_left_behind_by_a_newer_zip_is_not_used(tmp_path, ppo, cartpole_venv):
    save_stable_model(tmp_path, ppo)
    ppo.learn(32)
    ppo.save(tmp_path / "model.zip")
    loaded = load_policy("ppo", cartpole_venv, path=tmp_path, device="cpu").state_dict()
    newer = ppo.policy.state_dict()
    assert all(np.array_equal(loaded[key], newer[key]) for key in newer)


def test_several_models_in_one_folder(tmp_path, ppo, cartpole_venv):
    save_stable_model(tmp_path, ppo, "best.zip")
    ppo.learn(64)
    save_stable_model(tmp_path, ppo)
    best = load_policy("ppo", cartpole_venv, path=tmp_path / "best.zip", device="cpu").state_dict()
    last = load_policy("ppo", cartpole_venv, path=tmp_path, device="cpu").state_dict()
    assert any(not np.array_equal(best[key], last[key]) for key in best)


def test_any_saved_policy_file_and_the_wrong_algorithm(tmp_path, ppo, cartpole_venv):
    save_policy(ppo.policy, tmp_path / "bc.policy")
    load_policy("ppo", cartpole_venv, path=tmp_path / "bc.policy")
    with pytest.raises(ConfigError, match="DQNPolicy"):
        load_policy("dqn", cartpole_venv, path=tmp_path / "bc.policy")


def test_missing_and_damaged_files(tmp_path, ppo, cartpole_venv):
    for path in (tmp_path, tmp_path / "nothing.zip", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_policy("ppo", cartpole_venv, path=path)
    save_stable_model(tmp_path, ppo)
    sidecar = tmp_path / "policy.safetensors"
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"policy\.safetensors"):
        load_policy("ppo", cartpole_venv, path=tmp_path)


def test_load_a_whole_model_with_trust(tmp_path, ppo, cartpole_venv, rng):
    save_stable_model(tmp_path, ppo)
    model = load_stable_baselines_model(PPO, str(tmp_path), cartpole_venv, trust="pickle", device="cpu")
    assert isinstance(model, PPO)
    assert model.get_env() is cartpole_venv
    model.learn(32)
    pendulum = make_vec_env("Pendulum-v1", rng=rng, n_envs=1)
    for trust in (None, "pickle"):
        with pytest.raises(SpaceMismatchError):
            load_stable_baselines_model(PPO, tmp_path, pendulum, trust=trust)
    pendulum.close()
    with pytest.raises(FileNotFoundError):
        load_stable_baselines_model(PPO, tmp_path / "none.zip", cartpole_venv)


def test_callback_saves_at_each_interval(tmp_path, ppo, cartpole_venv):
    ppo.learn(64, callback=EveryNTimesteps(32, SavePolicyCallback(tmp_path)))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["000000000032", "000000000064"]
    load_policy("ppo", cartpole_venv, path=tmp_path / "000000000064")


def test_random_zero_and_a_loader_of_ones_own(cartpole_venv):
    assert isinstance(load_policy("random", cartpole_venv, seed=1), RandomPolicy)
    assert isinstance(load_policy("zero", cartpole_venv), ZeroPolicy)

    def my_loader(venv, some_param: int) -> ZeroPolicy:
        assert some_param == 42
        return ZeroPolicy(venv.observation_space, venv.action_space)

    if "my-policy" not in policy_registry:
        policy_registry.register("my-policy", my_loader)
    assert isinstance(load_policy("my-policy", cartpole_venv, some_param=42), ZeroPolicy)
    with pytest.raises(RegistryError, match="did you mean 'ppo'"):
        load_policy("pppo", cartpole_venv)


class SpacesEnv(gym.Env):
    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


PAIRS = [
    (spaces.Box(-1, 1, (3,)), spaces.Discrete(2)),
    (spaces.Box(-1, 1, (4,)), spaces.Discrete(2)),
    (spaces.Box(-1, 2, (3,)), spaces.Discrete(2)),
    (spaces.Box(-1, 1, (3,)), spaces.Discrete(3)),
    (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))),
    (spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))),
]


@pytest.mark.fault("F9")
@pytest.mark.parametrize(("made_for", "used_in"), list(itertools.permutations(range(len(PAIRS)), 2)))
def test_mismatched_spaces_are_shown_at_load(made_for, used_in, tmp_path):
    from understudy.policies.base import FeedForward32Policy

    save_policy(FeedForward32Policy(*PAIRS[made_for], lambda _: 1e-3), tmp_path / "p")
    load_policy("ppo", DummyVecEnv([lambda: SpacesEnv(*PAIRS[made_for])]), path=tmp_path / "p")
    venv = DummyVecEnv([lambda: SpacesEnv(*PAIRS[used_in])])
    with pytest.raises(SpaceMismatchError) as caught:
        load_policy("ppo", venv, path=tmp_path / "p")
    for space in (*PAIRS[made_for], *PAIRS[used_in]):
        assert str(space) in str(caught.value)


def test_image_policies_fit_channels_last_environments(tmp_path):
    space = spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 3), np.uint8), "v": spaces.Box(-1, 1, (2,))})
    for observation_space, policy in ((space["image"], "CnnPolicy"), (space, "MultiInputPolicy")):
        venv = DummyVecEnv([lambda s=observation_space: SpacesEnv(s, spaces.Discrete(2))])
        model = PPO(policy, venv, n_steps=4, batch_size=4, device="cpu")
        assert model.policy.observation_space != observation_space
        save_stable_model(tmp_path, model)
        loaded = load_policy("ppo", venv, path=tmp_path, device="cpu")
        assert loaded.predict(venv.reset())[0].shape == (1,)
        load_policy("ppo", VecTransposeImage(venv), path=tmp_path)


def test_a_policy_of_normalised_observations_wants_them(tmp_path, cartpole_venv):
    normalized = VecNormalize(cartpole_venv)
    save_stable_model(tmp_path, PPO("MlpPolicy", normalized, n_steps=16, batch_size=16, **small()))
    load_policy("ppo", normalized, path=tmp_path)
    with pytest.raises(ConfigError, match=r"load_vec_normalize\("):
        load_policy("ppo", cartpole_venv, path=tmp_path)
    load_policy("ppo", load_vec_normalize(tmp_path, cartpole_venv), path=tmp_path)
    (tmp_path / "policy.safetensors").unlink()  # the bare zip does not say it, but the statistics beside it do
    with pytest.raises(ConfigError, match=r"load_vec_normalize\("):
        load_policy("ppo", cartpole_venv, path=tmp_path)
