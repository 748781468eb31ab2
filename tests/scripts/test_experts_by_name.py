"""``--expert`` and ``--policy``: what they may be, and what is said about what they may not be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from _small_runs import SMALL, train
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from understudy.data import serialize
from understudy.policies.serialize import save_stable_model
from understudy.scripts import cli
from understudy.util.vec_env import make_vec_env

MODULE = """
import numpy as np

def act(obs):
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(np.int64)

def shape(obs):
    return np.zeros((len(obs), 3))

def outside(obs):
    return np.full(len(obs), 7)

def arity(obs, temperature):
    return act(obs)

def with_memory(obs, state, starts):
    return act(obs), state

class Model:
    def predict(self, obs, deterministic=False):
        assert deterministic
        return act(obs), None

model = Model()
number = 3

class Nested:
    inner = Model()
"""


@pytest.fixture
def own(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with experts of one's own, which is the working directory."""
    (in_tmp / "my_experts.py").write_text(MODULE)
    (in_tmp / "my_slips.py").write_text("import my_nothing\n")
    (in_tmp / "my_exit.py").write_text("raise SystemExit(0)\n")
    (in_tmp / "my_syntax.py").write_text("def act(obs:\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_experts", "my_slips", "my_exit", "my_syntax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return in_tmp


@pytest.mark.parametrize("name", ["act", "model", "Nested.inner", "with_memory"])
def test_an_expert_of_ones_own_teaches_everyone(name: str, own: Path) -> None:
    spec = f"my_experts:{name}"
    assert cli.main(["evaluate", "CartPole-v1", "--policy", spec, *SMALL]) == 0
    assert cli.main(["rollout", "CartPole-v1", "--policy", spec, *SMALL[3:], "--n-episodes", "2", "--out", "data"]) == 0
    assert [len(each) for each in serialize.load("data")] == [60, 60]
    assert train("--expert", spec, "--n-demonstrations", "2", "--n-batches", "2", "--out", "run") == 0
    assert json.loads(Path("run/results.json").read_text())["returns"]["expert"]["returns"] == [60.0] * 4


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("my_expert:act", "no module named 'my_expert'"),
        ("my_experts:atc", "did you mean act?"),
        ("my_experts:Nested.outer", "no such name"),
        ("my_experts:arity", "(obs, temperature)"),
        ("my_experts:Model", "the class Model"),
        ("my_experts:number", "int: 3"),
        ("my_experts:shape", "actions of shape (2,) from the expert, for Discrete(2), my_experts:shape"),
        ("my_experts:outside", "actions of Discrete(2)"),
        ("my_slips:act", "No module named 'my_nothing'"),
        ("my_syntax:act", "line 1"),
        ("my_exit:act", "SystemExit: 0"),
        ("./my_experts:act", "did you mean my_experts:act, from the folder that holds it?"),
        (".my_experts:act", "did you mean my_experts:act, from the folder that holds it?"),
        ("pkg/my_experts.py:act", "did you mean pkg.my_experts:act, from the folder that holds it?"),
        ("my_experts.py:act", "write my_experts:act"),
        ("hub:somewhere", "hub:ORGANIZATION/ALGO-ENVIRONMENT"),
        ("human", "a terminal to ask a person at"),
        ("humna", "did you mean human?"),
        ("nowhere.zip", "module:name, or the path"),
    ],
)
def test_what_is_wrong_with_an_expert_is_told(
    spec: str, told: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(own.iterdir())
    assert train("--expert", spec, "--n-demonstrations", "2", "--out", "run") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert all(part in shown for part in ("expected", "got", "do this"))
    assert set(own.iterdir()) - before <= {own / "__pycache__"}


def test_a_module_is_not_imported_for_a_file_of_that_name(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "my_slips:act").write_text("")
    assert train("--expert", "my_slips:act", "--n-demonstrations", "2") == 2
    assert "my_nothing" not in capsys.readouterr().err


def test_a_person_chooses_among_choices_only(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "dagger", "Pendulum-v1", "--expert", "human"]) == 2
    assert "a Discrete action space" in " ".join(capsys.readouterr().err.split())


def test_a_zip_of_stable_baselines_is_an_expert(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0).save("expert.zip")
    assert cli.main(["evaluate", "CartPole-v1", "--policy", "expert.zip", *SMALL]) == 0
    assert cli.main(["evaluate", "Pendulum-v1", "--policy", "expert.zip", *SMALL]) == 2
    assert "trained on" in " ".join(capsys.readouterr().err.split())


def test_an_expert_that_saw_normalised_observations_is_refused(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = VecNormalize(make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=1))
    save_stable_model("model", PPO("MlpPolicy", venv, device="cpu"))
    for spec in ("model", "model/model.zip"):
        assert cli.main(["evaluate", "CartPole-v1", "--policy", spec, *SMALL]) == 2
        assert "VecNormalize" in " ".join(capsys.readouterr().err.split())


@pytest.mark.fault("F6")
def test_a_run_folder_does_not_choose_a_module_to_import(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--out", "run", "--n-demonstrations", "2", "--n-batches", "2") == 0
    Path("evil.py").write_text("open('executed', 'w')")
    path = Path("run/config.json")
    config = json.loads(path.read_text())
    config["status"] = "running"
    config["options"]["expert"]["expert"] = "evil:act"
    path.write_text(json.dumps(config))
    assert cli.main(["train", "bc", "--resume", "run"]) == 2
    assert "--expert evil:act" in " ".join(capsys.readouterr().err.split())
    assert not Path("executed").exists()
