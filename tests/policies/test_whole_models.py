"""A model's zip as a model again: it learns on from where it was, and what was lost is said."""

from __future__ import annotations

import math
import warnings

import pytest
import sb3_contrib
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from understudy.errors import ConfigError, CorruptFileError
from understudy.policies.base import FeedForward32Policy
from understudy.policies.serialize import load_policy, load_saved_policy, load_stable_baselines_model, save_policy
from understudy.util.vec_env import make_vec_env

ON = {"n_steps": 16, "batch_size": 16}
OFF = {"learning_starts": 4, "batch_size": 4, "buffer_size": 100}
MODELS = [
    (PPO, "CartPole-v1", ON),
    (A2C, "CartPole-v1", {}),
    (DQN, "CartPole-v1", OFF),
    (SAC, "Pendulum-v1", {**OFF, "train_freq": (2, "step")}),
    (TD3, "Pendulum-v1", OFF),
    (DDPG, "Pendulum-v1", OFF),
    (sb3_contrib.TRPO, "CartPole-v1", ON),
    (sb3_contrib.QRDQN, "CartPole-v1", OFF),
    (sb3_contrib.TQC, "Pendulum-v1", OFF),
    (sb3_contrib.CrossQ, "Pendulum-v1", OFF),
    (sb3_contrib.RecurrentPPO, "CartPole-v1", ON),
]


def equal(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def make(cls, env_id, rng, **kwargs):
    venv = make_vec_env(env_id, rng=rng, n_envs=1)
    policy = "MlpLstmPolicy" if cls is sb3_contrib.RecurrentPPO else "MlpPolicy"
    return cls(policy, venv, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **kwargs), venv


@pytest.mark.defect("B24")
@pytest.mark.parametrize(("cls", "env_id", "kwargs"), MODELS, ids=lambda value: getattr(value, "__name__", None))
def test_a_model_learns_on(cls, env_id, kwargs, tmp_path, rng):
    model, venv = make(cls, env_id, rng, **kwargs)
    model.learn(32)
    model.save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was lost
        loaded = load_stable_baselines_model(cls, tmp_path, venv, device="cpu")
    assert equal(loaded.get_parameters(), model.get_parameters())
    assert loaded.num_timesteps == model.num_timesteps
    assert loaded.seed == 0
    assert loaded.lr_schedule(1.0) == model.lr_schedule(1.0)
    for name in (
        "train_freq",
        "gamma",
        "batch_size",
        "n_steps",
        "gradient_steps",
        "exploration_rate",
        "target_entropy",
    ):
        assert getattr(loaded, name, None) == getattr(model, name, None), name
    if hasattr(model, "log_ent_coef"):
        assert torch.equal(loaded.log_ent_coef, model.log_ent_coef)
    before = loaded.num_timesteps
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps >= before + 32
    assert all(bool(value.isfinite().all()) for value in loaded.policy.state_dict().values())
    venv.close()


def test_schedules_of_sb3_come_along_and_functions_are_named(tmp_path, rng):
    model, venv = make(PPO, "CartPole-v1", rng, learning_rate=LinearSchedule(1e-3, 1e-4, 0.5), clip_range=0.3, **ON)
    model.save(tmp_path / "model.zip")
    loaded = load_stable_baselines_model(PPO, tmp_path, venv)
    assert [loaded.lr_schedule(left) for left in (1.0, 0.75, 0.0)] == pytest.approx([1e-3, 5.5e-4, 1e-4])
    assert loaded.clip_range(1.0) == 0.3
    model.learning_rate = lambda left: left
    model.save(tmp_path / "model.zip")
    model.learning_rate, model.lr_schedule = (lambda left: left), None
    model.save(tmp_path / "lost.zip")
    with pytest.warns(UserWarning, match="learning_rate only in pickles"):
        assert load_stable_baselines_model(PPO, tmp_path / "lost.zip", venv).lr_schedule(1.0) == 3e-4
    given = load_stable_baselines_model(PPO, tmp_path / "lost.zip", venv, learning_rate=0.5)
    assert given.lr_schedule(1.0) == 0.5
    with pytest.raises(ConfigError, match="policy"):
        load_stable_baselines_model(PPO, tmp_path, venv, policy="MlpPolicy")
    venv.close()


@pytest.mark.defect("B24")
def test_a_clone_with_a_placeholder_for_a_learning_rate_learns(tmp_path, rng):
    """Cloning alone never reads a policy's own learning rate, so it may be the largest float."""
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
    huge = torch.finfo(torch.float32).max
    clone = FeedForward32Policy(venv.observation_space, venv.action_space, lambda _: huge)
    save_policy(clone, tmp_path / "clone")
    assert load_saved_policy(tmp_path / "clone", device="cpu").optimizer.param_groups[0]["lr"] == 3e-4
    model = PPO(FeedForward32Policy, venv, learning_rate=huge, device="cpu", **ON)
    model.policy.load_state_dict(clone.state_dict())
    model.save(tmp_path / "model.zip")
    loaded = load_stable_baselines_model(PPO, tmp_path, venv, device="cpu")
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 3e-4
    assert load_policy("ppo", venv, path=tmp_path).optimizer.param_groups[0]["lr"] == 3e-4
    loaded.learn(32)
    assert math.isclose(loaded.policy.optimizer.param_groups[0]["lr"], 3e-4)
    assert all(bool(value.isfinite().all()) for value in loaded.policy.state_dict().values())
    venv.close()


def test_no_file_chooses_where_to_write(tmp_path, rng):
    model, venv = make(PPO, "CartPole-v1", rng, tensorboard_log=str(tmp_path / "elsewhere"), **ON)
    model.save(tmp_path / "model.zip")
    assert load_stable_baselines_model(PPO, tmp_path, venv).tensorboard_log is None
    assert load_stable_baselines_model(PPO, tmp_path, venv, tensorboard_log="here").tensorboard_log == "here"
    venv.close()


def test_an_own_optimizer_has_to_be_given(tmp_path, rng):
    class Own(torch.optim.SGD):
        pass

    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
    kwargs = {"net_arch": [8], "optimizer_class": Own}
    PPO("MlpPolicy", venv, policy_kwargs=kwargs, device="cpu", **ON).save(tmp_path / "model.zip")
    load_policy("ppo", venv, path=tmp_path)  # it acts without one
    with pytest.raises(ConfigError, match="optimizer_class"):
        load_stable_baselines_model(PPO, tmp_path, venv)
    loaded = load_stable_baselines_model(PPO, tmp_path, venv, custom_objects={"optimizer_class": Own})
    assert isinstance(loaded.policy.optimizer, Own)
    venv.close()


def test_the_wrong_algorithm(tmp_path, rng):
    model, venv = make(PPO, "CartPole-v1", rng, **ON)
    model.save(tmp_path / "model.zip")
    with pytest.raises((ConfigError, CorruptFileError), match="DQN"):
        load_stable_baselines_model(DQN, tmp_path, venv)
    venv.close()


def test_under_normalised_observations(tmp_path, rng):
    venv = VecNormalize(make_vec_env("CartPole-v1", rng=rng, n_envs=1))
    model = PPO("MlpPolicy", venv, policy_kwargs={"net_arch": [8]}, device="cpu", **ON)
    model.learn(16)
    model.save(tmp_path / "model.zip")
    assert equal(load_stable_baselines_model(PPO, tmp_path, venv).get_parameters(), model.get_parameters())
    venv.close()
