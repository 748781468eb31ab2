from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from _small_runs import SMALL, npz, train
from gymnasium import spaces

from understudy.algorithms.bc import BC
from understudy.evaluation.returns import evaluate_returns
from understudy.scripts import cli
from understudy.scripts._cloning import Cloning, Length
from understudy.scripts._parts import Environment, Evaluation
from understudy.scripts.train_bc import TrainBC
from understudy.scripts.train_rl import TrainRL
from understudy.util.vec_env import make_vec_env


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"understudy {name}" in shown for name in cli.VERBS)
    assert cli.main(["train"]) == 0
    family = capsys.readouterr().out
    assert "train rl" in family
    assert "understudy inspect" not in family


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("understudy ")


def test_an_unknown_verb_is_told_in_three_parts_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "bd"]) == 2
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("expected", "got", "do this", "understudy train bc"))


def test_help_loads_neither_torch_nor_environments() -> None:
    code = (
        "import sys\nfrom understudy.scripts.cli import main\nmain(['--help'])\n"
        "try:\n    main(['train', 'bc', '--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'gymnasium', 'stable_baselines3', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--ent-weight" in done.stdout


@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: understudy {name}" in capsys.readouterr().out


def test_defaults_are_the_constructors() -> None:
    def defaults(function: Any) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}

    bc = defaults(BC.__init__)
    cloning = Cloning()
    for name in ("batch_size", "minibatch_size", "ent_weight", "l2_weight", "max_grad_norm", "device"):
        assert getattr(cloning, name) == bc[name], name
    train = defaults(BC.train)
    for name in ("validation_fraction", "patience"):
        assert getattr(Length(), name) == train[name], name
    returns = defaults(evaluate_returns)
    assert Evaluation().n_eval_episodes == returns["n_episodes"]
    assert Evaluation().deterministic == returns["deterministic"]
    assert Environment("x").n_envs == defaults(make_vec_env)["n_envs"]


def test_train_bc_writes_a_whole_run_folder(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--out", "run", "--n-demonstrations", "3", "--n-epochs", "1", "--validation-fraction", "0.34") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("random", "expert", "clone", "95 %", "run/policy/policy.safetensors"))
    names = {path.name for path in Path("run").iterdir()}
    files = {"config.json", "metrics.jsonl", "results.json", "report.html", "journal.jsonl", ".lock"}
    assert names == files | {"policy", "checkpoints"}
    config = json.loads(Path("run/config.json").read_text())
    assert config["status"] == "finished"
    assert config["data"]["episodes"] == 3
    assert config["data"]["transitions"] == 180
    assert len(config["data"]["sha256"]) == 64
    assert config["options"]["cloning"]["batch_size"] == 32
    assert config["versions"]["torch"] == torch.__version__
    assert config["hardware"]["torch_threads"] == 1
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["bc/batch"] == 0
    assert all(np.isfinite(line["bc/loss"]) for line in lines[:-1])
    assert lines[-1]["bc/validation_neglogp"] > 0  # of the last epoch
    assert config["used"]["cloning"]["learning_rate"] == 0.001
    assert config["used"]["cloning"]["device"] == config["hardware"]["device"] == "cpu"
    results = json.loads(Path("run/results.json").read_text())
    assert list(results["returns"]) == ["random", "expert", "clone"]
    assert len(results["returns"]["clone"]["returns"]) == 4
    assert results["action_error"]["measured_on"] == "30 fresh expert episodes"
    assert results["training_note"] == "1 epoch, batches of 32"
    assert results["validation"]["batches_an_epoch"] == 4
    assert len(results["validation"]["neglogp"]) == 1
    assert np.sum(results["actions"]["counts"]) == 30 * 60


def test_one_seed_decides_the_policy(in_tmp: Path) -> None:
    data = ["--demonstrations", str(npz(in_tmp / "mine.npz")), "--n-epochs", "2", "--expert", "none"]
    hashes = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert train("--out", name, "--seed", seed, *data) == 0
        hashes.append(json.loads(Path(name, "config.json").read_text())["policy_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_train_bc_on_arrays_without_an_expert(in_tmp: Path) -> None:
    path = npz(in_tmp / "mine.npz", rews=np.ones(40, dtype=np.float32))
    options = ["--demonstrations", str(path), "--expert", "none", "--n-batches", "5", "--net-arch", "8"]
    assert train("--out", "run", *options, "--normalize", "--n-demonstrations", "1") == 0
    results = json.loads(Path("run/results.json").read_text())
    assert list(results["returns"]) == ["random", "demonstrations", "clone"]
    assert results["returns"]["demonstrations"]["returns"] == [20.0]
    assert results["action_error"]["measured_on"] == "1 training episode"


def test_mistakes_exit_with_2_and_leave_nothing_behind(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = [
        ["train", "bc", "NoSuchEnv-v0"],
        ["train", "bc", "CartPole-v1", "--demonstrations", "nowhere.npz"],
        ["train", "bc", "CartPole-v1", "--n-epochs", "1", "--n-batches", "1"],
        ["train", "bc", "CartPole-v1", "--n-eval-episodes", "0"],
        ["train", "bc", "CartPole-v1", "--n-demonstrations", "0"],
        ["train", "bc", "CartPole-v1", "--n-demonstrations", "1", "--batch-size", "0"],
        ["train", "bc", "CartPole-v1", "--threads", "0"],
        ["train", "bc", "Acrobot-v1"],
        ["train", "rl"],
        ["train", "rl", "CartPole-v1", "--set", "n_steps"],
        ["evaluate", "CartPole-v1", "--policy", "nowhere"],
        ["rollout", "CartPole-v1", "--n-episodes", "0"],
        ["inspect", "nowhere.npz"],
    ]
    for mistake in mistakes:
        assert cli.main(mistake) == 2, mistake
        shown = capsys.readouterr().err
        assert "do this" in shown
        assert "Traceback" not in shown
    assert not list(in_tmp.iterdir())


def test_a_folder_with_a_run_is_not_overwritten(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    assert train("--out", "run") == 2
    assert Path("run/config.json").read_text() == "{}"


def test_more_episodes_than_there_are_is_a_mistake(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--demonstrations", str(npz(in_tmp / "mine.npz")), "--n-demonstrations", "3") == 2
    assert "at least 3 episodes" in capsys.readouterr().err


@pytest.mark.fault("F27")
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_clone_so_far(
    sig: signal.Signals, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = BC.train

    def interrupted(self: BC, **kwargs: Any) -> None:
        def stop() -> None:
            os.kill(os.getpid(), sig)

        whole(self, **kwargs, on_epoch_end=stop)

    with monkeypatch.context() as patch:
        patch.setattr(BC, "train", interrupted)
        assert train("--out", "run", "--demonstrations", str(npz(in_tmp / "mine.npz"))) == 128 + sig
    assert json.loads(Path("run/config.json").read_text())["status"] == "interrupted"
    assert "interrupted" in Path("run/report.html").read_text()
    assert "understudy train bc --resume run" in capsys.readouterr().out
    assert cli.main(["evaluate", "CartPole-v1", "--policy", "run", *SMALL]) == 0


def test_ctrl_c_elsewhere_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(self: TrainBC, console: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainBC, "run", interrupted)
    assert train() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_rollout_inspect_and_train_fit_together(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rollout", "CartPole-v1", "--n-episodes", "3", *SMALL[3:], "--out", "data"]) == 0
    assert "3 by time limit" in capsys.readouterr().out
    assert cli.main(["inspect", "data", "--env", "CartPole-v1"]) == 0
    assert "healthy" in capsys.readouterr().out
    assert cli.main(["inspect", "data", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    assert answer["inspection"]["n_transitions"] == 180
    assert train("--demonstrations", "data", "--n-batches", "10", "--out", "run", "--expert", "none") == 0
    assert cli.main(["rollout", "CartPole-v1", "--out", "data"]) == 2


def test_inspect_exits_with_1_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs = np.zeros((40, 4), np.float32)
    obs[3, 1] = np.nan
    assert cli.main(["inspect", str(npz(tmp_path / "bad.npz", obs=obs))]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "episode 0, step 3" in shown
    assert "do this" in shown


def test_evaluate_compares_policies_on_the_same_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "CartPole-v1", "--policy", "random", "zero", "bundled", *SMALL]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("random", "zero", "bundled"))
    assert cli.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in answer["summaries"]] == ["random", "zero", "bundled"]
    assert answer["episodes"]["bundled"]["returns"] == [60.0] * 4
    assert max(answer["episodes"]["zero"]["returns"]) < 12


def test_a_policy_of_another_environment_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--demonstrations", str(npz(in_tmp / "mine.npz")), "--n-batches", "1", "--expert", "none"]
    assert train("--out", "run", *data) == 0
    assert cli.main(["evaluate", "Pendulum-v1", "--policy", "run"]) == 2
    assert "Pendulum-v1" in capsys.readouterr().err


def test_demo_shows_expert_and_clone_at_their_best(in_tmp: Path) -> None:
    options = ["--n-demonstrations", "10", "--n-epochs", "8", "--n-eval-episodes", "6", "--no-progress-bar"]
    assert cli.main(["demo", "--out", "run", *options]) == 0
    returns = json.loads(Path("run/results.json").read_text())["returns"]
    assert returns["expert"]["returns"] == [500.0] * 6
    assert np.mean(returns["clone"]["returns"]) > 450
    assert json.loads(Path("run/config.json").read_text())["verb"] == "demo"


def test_train_rl_writes_a_run_that_others_can_load(in_tmp: Path) -> None:
    options = ["--total-timesteps", "512", "--n-eval-episodes", "2", "--no-progress-bar", "--out", "run"]
    assert cli.main(["train", "rl", "CartPole-v1", *options]) == 0
    assert {path.name for path in Path("run/policies/final").iterdir()} == {"model.zip", "policy.safetensors"}
    config = json.loads(Path("run/config.json").read_text())
    assert config["recipe"]["algo"] == "ppo"
    assert config["recipe"]["total_timesteps"] == 512
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 512
    assert "Reinforcement learning" in Path("run/report.html").read_text()
    assert cli.main(["train", "bc", "CartPole-v1", *SMALL, "--expert", "run", "--n-demonstrations", "2"]) == 0


def test_ctrl_c_saves_the_learner_so_far(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.scripts._metrics import MetricsCallback

    def stop(self: MetricsCallback) -> bool:
        if self.num_timesteps >= 256:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(MetricsCallback, "_on_step", stop)
    assert cli.main(["train", "rl", "CartPole-v1", "--no-progress-bar", "--out", "run"]) == 130
    assert Path("run/policies/final/policy.safetensors").is_file()
    assert json.loads(Path("run/config.json").read_text())["status"] == "interrupted"


def test_options_replace_a_presets_settings_one_by_one() -> None:
    recipe = TrainRL(
        env_id="CartPole-v1", total_timesteps=7, set=("gamma=0.5", "clip_range=linear:0.1"), seed=3
    ).recipe()
    assert (recipe.algo, recipe.total_timesteps, recipe.seed) == ("ppo", 7, 3)
    assert recipe.hyperparameters["gamma"] == 0.5
    assert recipe.hyperparameters["clip_range"] == "linear:0.1"
    assert recipe.hyperparameters["n_steps"] == 32
    assert TrainRL(preset="pendulum").recipe().env_id == "Pendulum-v1"


def test_without_a_preset_the_learner_must_be_named() -> None:
    recipe = TrainRL(env_id="Acrobot-v1", algo="dqn", total_timesteps=100).recipe()
    assert (recipe.env_id, recipe.algo, dict(recipe.hyperparameters)) == ("Acrobot-v1", "dqn", {})
    other = TrainRL(env_id="CartPole-v1", algo="dqn", total_timesteps=100).recipe()
    assert "n_epochs" not in other.hyperparameters


class Stripes(gym.Env[np.ndarray, int]):
    """Bright or dark images; the action should say which."""

    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def _image(self) -> np.ndarray:
        self.bright = bool(self.np_random.integers(2))
        return np.full((36, 36, 3), 200 if self.bright else 20, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.bright)
        return self._image(), reward, False, False, {}


def test_images_get_a_convolutional_network(in_tmp: Path) -> None:
    gym.register("Stripes-v0", Stripes, max_episode_steps=8)
    try:
        values = np.random.default_rng(0).integers(0, 2, size=64)
        obs = np.where(values, 200, 20).astype(np.uint8)[:, None, None, None] * np.ones((1, 36, 36, 3), np.uint8)
        np.savez("mine.npz", obs=obs, acts=values, episode_ends=np.arange(8, 65, 8))
        options = ["--demonstrations", "mine.npz", "--n-epochs", "5", "--batch-size", "16", "--out", "run"]
        assert cli.main(["train", "bc", "Stripes-v0", *SMALL, *options]) == 0
        assert cli.main(["train", "bc", "Stripes-v0", *SMALL, *options[:-1], "other", "--normalize"]) == 2
    finally:
        del gym.registry["Stripes-v0"]
    assert json.loads(Path("run/results.json").read_text())["returns"]["clone"]["returns"] == [60.0] * 4
