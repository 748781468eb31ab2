"""The statistics of VecNormalize, out of its pickles and into our own files."""

from __future__ import annotations

import os
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from understudy.errors import CorruptFileError, SpaceMismatchError, UntrustedFileError
from understudy.policies.serialize import load_policy, save_stable_model
from understudy.policies.vec_normalize import load_vec_normalize, save_vec_normalize

VECTOR = spaces.Box(-1, 1, (3,))
DICT = spaces.Dict({"a": VECTOR, "b": spaces.Box(0, 2, (2, 2)), "n": spaces.Discrete(3)})


class Noise(gym.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, observation_space):
        self.observation_space = observation_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.5, False, False, {}


def venv_of(space=VECTOR) -> DummyVecEnv:
    return DummyVecEnv([lambda: Noise(space)])


def gathered(space=VECTOR, **kwargs) -> VecNormalize:
    normalized = VecNormalize(venv_of(space), **kwargs)
    normalized.reset()
    for _ in range(10):
        normalized.step(np.array([0]))
    return normalized


def moments(normalized: VecNormalize) -> dict[str, RunningMeanStd]:
    rms = normalized.obs_rms if normalized.norm_obs else {}
    return {**(rms if isinstance(rms, dict) else {"": rms}), "return": normalized.ret_rms}


def assert_same(first: VecNormalize, second: VecNormalize) -> None:
    assert moments(first).keys() == moments(second).keys()
    for key, rms in moments(first).items():
        other = moments(second)[key]
        np.testing.assert_array_equal(rms.mean, other.mean)
        np.testing.assert_array_equal(rms.var, other.var)
        assert rms.count == other.count
    for name in ("clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs", "norm_reward", "norm_obs_keys"):
        assert getattr(first, name) == getattr(second, name), name


CASES = [
    (VECTOR, {"clip_obs": 5.0, "clip_reward": 3.0, "gamma": 0.9, "epsilon": 1e-6}),
    (VECTOR, {"norm_reward": False}),
    (VECTOR, {"norm_obs": False}),
    (DICT, {"norm_obs_keys": ["a", "b"]}),
    (DICT, {"norm_obs_keys": ["b"]}),
]


@pytest.mark.parametrize(("space", "kwargs"), CASES)
@pytest.mark.parametrize("form", ["pkl", "safetensors", 2, 3])
def test_both_forms_hold_the_same(space, kwargs, form, tmp_path, monkeypatch):
    normalized = gathered(space, **kwargs)
    file = tmp_path / f"statistics.{form}"
    if form == "pkl":
        normalized.save(str(file))
    elif form == "safetensors":
        save_vec_normalize(normalized, file)
    else:
        file.write_bytes(pickle.dumps(normalized, protocol=form))

    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, forbidden)
        loaded = load_vec_normalize(file, venv_of(space))
    assert_same(normalized, loaded)
    assert not loaded.training
    assert load_vec_normalize(file, venv_of(space), training=True).training
    obs = normalized.get_original_obs()
    for key, value in (obs if isinstance(obs, dict) else {None: obs}).items():
        first, second = normalized.normalize_obs(obs), loaded.normalize_obs(obs)
        assert (first if key is None else first[key]).shape == value.shape
        np.testing.assert_array_equal(first if key is None else first[key], second if key is None else second[key])


def test_numpy_numbers_are_read_as_well(tmp_path):
    normalized = gathered()
    normalized.gamma = np.float32(0.5)
    normalized.obs_rms.count = np.float64(12.0)
    normalized.obs_rms.mean = np.asfortranarray(normalized.obs_rms.mean)
    normalized.save(str(tmp_path / "s.pkl"))
    loaded = load_vec_normalize(tmp_path / "s.pkl", venv_of())
    assert (loaded.gamma, loaded.obs_rms.count) == (0.5, 12.0)


def test_saved_with_the_model_and_found_beside_it(tmp_path):
    normalized = gathered()
    model = PPO("MlpPolicy", normalized, n_steps=4, batch_size=4, policy_kwargs={"net_arch": [4]}, device="cpu")
    save_stable_model(tmp_path, model)
    save_stable_model(tmp_path, model, "best.zip")
    names = {"model.zip", "policy.safetensors", "vec_normalize.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} == {
        *names, "best.zip", "best.safetensors", "best.vec_normalize.safetensors"
    }  # fmt: skip
    for path in (tmp_path, tmp_path / "model.zip", tmp_path / "best.zip"):
        loaded = load_vec_normalize(path, venv_of())
        assert_same(normalized, loaded)
        load_policy("ppo", loaded, path=path)
    with pytest.raises(FileNotFoundError, match="statistics"):
        load_vec_normalize(tmp_path / "elsewhere", venv_of())


def test_the_layout_of_the_zoo(tmp_path):
    normalized = gathered()
    model = PPO("MlpPolicy", normalized, n_steps=4, batch_size=4, policy_kwargs={"net_arch": [4]}, device="cpu")
    model.save(tmp_path / "ppo-Noise.zip")
    normalized.save(str(tmp_path / "vec_normalize.pkl"))
    assert_same(normalized, load_vec_normalize(tmp_path / "ppo-Noise.zip", venv_of()))


def test_other_environments_are_refused(tmp_path):
    for name, save in (("s.pkl", lambda v, p: v.save(str(p))), ("s.safetensors", save_vec_normalize)):
        save(gathered(), tmp_path / name)
        with pytest.raises(SpaceMismatchError, match=name):
            load_vec_normalize(tmp_path / name, venv_of(spaces.Box(-1, 1, (4,))))
        with pytest.raises(SpaceMismatchError, match=name):
            load_vec_normalize(tmp_path / name, venv_of(spaces.Dict({"a": VECTOR})))


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.fault("F6")
def test_hostile_pickles_do_nothing(tmp_path):
    mark = tmp_path / "executed"
    file = tmp_path / "s.pkl"
    file.write_bytes(pickle.dumps(Runs(f"touch {mark}")))
    with pytest.raises(UntrustedFileError, match="system"):
        load_vec_normalize(file, venv_of())
    normalized = gathered()
    normalized.obs_rms.mean = Runs(f"touch {mark}")
    file.write_bytes(pickle.dumps(normalized))
    with pytest.raises(CorruptFileError, match="system"):
        load_vec_normalize(file, venv_of())
    normalized = gathered()
    normalized.metadata = Runs(f"touch {mark}")  # beside what is read
    file.write_bytes(pickle.dumps(normalized))
    load_vec_normalize(file, venv_of())
    assert not mark.exists()


def dumped(change) -> bytes:
    normalized = gathered()
    change(normalized)
    return pickle.dumps(normalized)


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04.",
        b"\x80\x04N.",
        b"\x80\x04]" + b"]" * 400_000 + b".",
        b"\x80\x04" + b"\x8a\xff" + b"\x01" * 255 + b".",
        b"\x80\x04" + b"\x8d" + (1 << 60).to_bytes(8, "little") + b".",
        b"\x80\x04" + b"(" * 1000 + b"t" * 1000 + b".",
        b"\x80\x04" + b"]q\x00" + b"(h\x00h\x00h\x00h\x00e" * 1000 + b".",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04)" + b"\x85" * 100_000 + b"}\x8c\x01ah\x00s.",
        dumped(lambda each: setattr(each.obs_rms, "var", -np.ones(3))),
        dumped(lambda each: setattr(each.obs_rms, "mean", np.full(3, np.nan))),
        dumped(lambda each: setattr(each.obs_rms, "mean", np.array([{}, {}, {}]))),
        dumped(lambda each: setattr(each.obs_rms, "count", float("inf"))),
        dumped(lambda each: setattr(each, "clip_obs", "10")),
        dumped(lambda each: setattr(each, "obs_rms", None)),
        dumped(lambda each: setattr(each, "norm_obs_keys", 3)),
        dumped(lambda each: delattr(each, "ret_rms")),
    ],
    ids=range(17),
)
def test_bad_pickles_are_refused(content, tmp_path):
    (tmp_path / "s.pkl").write_bytes(content)
    with pytest.raises((CorruptFileError, UntrustedFileError), match=r"s\.pkl"):
        load_vec_normalize(tmp_path / "s.pkl", venv_of())


@pytest.mark.fault("F4")
def test_every_changed_bit_of_our_own_file_is_found(tmp_path):
    file = tmp_path / "s.safetensors"
    save_vec_normalize(gathered(), file)
    content = file.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(content) * 8, 100):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        with pytest.raises((CorruptFileError, UntrustedFileError), match=str(file)):
            load_vec_normalize(file, venv_of())
    for size in np.linspace(0, len(content) - 1, 20, dtype=int):
        file.write_bytes(content[:size])
        with pytest.raises(CorruptFileError, match=str(file)):
            load_vec_normalize(file, venv_of())
