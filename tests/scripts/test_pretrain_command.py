"""``understudy pretrain``: a model of Stable-Baselines3 in, one that knows the demonstrations out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from _small_runs import npz
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO, SAC

from understudy.algorithms import pretrain as library
from understudy.policies.serialize import load_saved_policy
from understudy.scripts import cli
from understudy.scripts._learners import AlgoName, Learner
from understudy.util.vec_env import make_vec_env

SMALL = ["--no-progress-bar", "--n-eval-episodes", "4", "--n-envs", "2", "--max-episode-steps", "60"]
RUN = ["pretrain", "CartPole-v1", *SMALL, "--n-demonstrations", "3", "--n-epochs", "2"]


def results_of(folder: str) -> Any:
    return json.loads(Path(folder, "results.json").read_text())


def test_a_pretrained_model_goes_on_elsewhere(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--learn", "256", "--critic-warmup", "2", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("random", "expert", "clone", "after RL", "95 %", "critic"))
    assert list(results_of("run")["returns"]) == ["random", "expert", "clone", "after RL"]
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for name in ("clone", "final"):
        model = PPO.load(f"run/policies/{name}/model.zip", device="cpu")
        policy = load_saved_policy(f"run/policies/{name}/policy.safetensors", device="cpu")
        theirs, ours = (each.predict(obs, deterministic=True)[0] for each in (model, policy))
        np.testing.assert_array_equal(theirs, ours)
    assert model.num_timesteps == 256
    assert model.target_kl == 0.01
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["pretrain/epoch"] for line in lines[:2]] == [0, 1]
    assert lines[-1]["step"] == 256
    config = json.loads(Path("run/config.json").read_text())
    assert config["used"]["learner"] == {"algo": "ppo", "policy": "ActorCriticPolicy", "device": "cpu"}
    assert config["data"]["transitions"] == 180
    report = Path("run/report.html").read_text()
    assert "Pretraining · CartPole-v1" in report
    assert "Loss while cloning" in report
    assert cli.main(["evaluate", "CartPole-v1", "--policy", "run", *SMALL]) == 0


def test_a_model_of_ones_own_is_compared_with_itself_before(in_tmp: Path) -> None:
    learner = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, learning_rate=0.005, device="cpu", seed=0)
    learner.learn(64)
    learner.save("mine.zip")
    assert cli.main([*RUN, "--model", "mine.zip", "--out", "run"]) == 0
    assert list(results_of("run")["returns"]) == ["random", "expert", "before", "clone"]
    kept = PPO.load("run/policies/clone/model.zip", device="cpu")
    assert (kept.learning_rate, kept.n_steps, kept.num_timesteps) == (0.005, 64, 64)
    moved = [not np.array_equal(a.detach(), b.detach()) for a, b in zip(
        kept.policy.action_net.parameters(), learner.policy.action_net.parameters(), strict=True
    )]  # fmt: skip
    assert all(moved)
    value = kept.policy.value_net.state_dict()
    assert all(np.array_equal(value[name], tensor) for name, tensor in learner.policy.value_net.state_dict().items())


def test_one_seed_decides_the_model(in_tmp: Path) -> None:
    hashes = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert cli.main([*RUN, "--seed", seed, "--out", name]) == 0
        hashes.append(json.loads(Path(name, "config.json").read_text())["policy_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_off_policy_model_begins_with_the_demonstrations(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["pretrain", "Pendulum-v1", "--algo", "sac", *SMALL[:-2], "--n-demonstrations", "2", "--n-epochs", "2"]
    options = ["--learn", "10", "--critic-warmup", "1", "--set", "batch_size=16", 'policy_kwargs={"net_arch": [16]}']
    assert cli.main([*run, *options, "--out", "run"]) == 0
    assert "400 demonstrated steps" in capsys.readouterr().out
    model = SAC.load("run/policies/final/model.zip", device="cpu")
    assert (model.learning_starts, model.batch_size, model.num_timesteps) == (0, 16, 10)


def test_own_arrays_need_no_rewards(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--demonstrations", str(npz(in_tmp / "mine.npz")), "--n-epochs", "2"]
    assert cli.main(["pretrain", "CartPole-v1", *SMALL, *data, "--learn", "256", "--out", "run"]) == 0
    assert "no warm-up of the critic" in " ".join(capsys.readouterr().out.split())
    assert list(results_of("run")["returns"]) == ["random", "clone", "after RL"]


@pytest.mark.parametrize("algo", get_args(AlgoName))
def test_every_algorithm_is_made_and_known_again(algo: Any, in_tmp: Path) -> None:
    discrete = algo not in ("sac", "td3", "ddpg", "tqc")
    env_id = "CartPole-v1" if discrete else "Pendulum-v1"
    venv = make_vec_env(env_id, rng=np.random.default_rng(0), n_envs=1)
    small = () if discrete and not algo.endswith("dqn") and algo != "qrdqn" else ("buffer_size=10",)
    name, model = Learner(algo=algo, set=small, device="cpu").make(venv, 0)
    assert name == algo
    rows = [space.sample()[None] for space in (venv.observation_space, venv.action_space)]
    data = {"obs": rows[0], "acts": rows[1], "episode_ends": np.array([1])}
    library.pretrain(model, data, n_epochs=1, rng=0, progress_bar=False)
    model.save("model.zip")
    given = algo if algo == "ddpg" else None  # TD3 with other defaults: its zip does not tell
    again, loaded = Learner(algo=given, model=Path("model.zip"), device="cpu").make(venv, 0)
    assert again == algo
    assert type(loaded) is type(model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--algo sac", "arguments and spaces that SAC takes"),
        ("--algo ppo --set n_setps=3", "arguments and spaces that PPO takes"),
        ("--set policy_kwargs=1", "an object in JSON"),
        ("--set seed=3", "--set without seed"),
        ("--algo ppo --set n_steps", "--set NAME=VALUE"),
        ("--model nowhere.zip", "--model with the zip"),
        ("--model nowhere.zip --policy MlpPolicy", "leave one out"),
        ("--n-epochs 0", "--n-epochs of at least 1"),
        ("--learning-rate 0", "--learning-rate above 0"),
        ("--validation-fraction 1", "--validation-fraction in [0, 1)"),
        ("--n-demonstrations 1 --validation-fraction 0.5", "at least two episodes"),
        ("--expert none", "demonstrations, or an expert"),
        ("--expert human", "a terminal to ask a person at"),
        ("--learn -1", "--learn of at least 0"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing(
    options: str, told: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pretrain", "CartPole-v1", *SMALL, *options.split()]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert all(part in shown for part in ("expected", "got", "do this"))
    assert not list(in_tmp.iterdir())


def test_a_zip_of_another_algorithm_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save("mine.zip")
    assert cli.main(["pretrain", "CartPole-v1", *SMALL, "--model", "mine.zip", "--algo", "dqn"]) == 2
    assert "tensors of" in " ".join(capsys.readouterr().err.split())
    TRPO("MlpPolicy", "CartPole-v1", device="cpu").save("trpo.zip")
    assert cli.main([*RUN, "--model", "trpo.zip", "--out", "run"]) == 0


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("gama=0.9", "did you mean gamma?"),
        ("policy_kwargs={}", "--set policy_kwargs=… with --model"),
        ("device=cpu", "pass --device"),
    ],
)
def test_an_option_that_a_zip_cannot_take_is_told(
    option: str, told: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save("mine.zip")
    assert cli.main(["pretrain", "CartPole-v1", *SMALL, "--model", "mine.zip", "--set", option]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_saves_the_model_so_far(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.scripts._metrics import MetricsCallback

    def stop(self: MetricsCallback) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsCallback, "_on_step", stop)
    assert cli.main([*RUN, "--learn", "256", "--out", "run"]) == 130
    assert PPO.load("run/policies/final/model.zip", device="cpu").num_timesteps > 0
    assert json.loads(Path("run/config.json").read_text())["status"] == "interrupted"
