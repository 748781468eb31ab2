"""``understudy train dagger``: a whole run, its rounds, and that a killed one goes on to the same files."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _small_runs import npz

from understudy.algorithms.dagger import reconstruct_trainer
from understudy.policies.serialize import load_policy, load_saved_policy
from understudy.scripts import cli
from understudy.scripts._rounds import Rounds, forget_rounds
from understudy.scripts._run_folder import read_metrics
from understudy.util.checkpoint import latest, step_of
from understudy.util.vec_env import make_vec_env

SMALL = ["--no-progress-bar", "--n-eval-episodes", "4", "--n-envs", "2", "--max-episode-steps", "40"]
ROUNDS = ["--rollout-round-min-episodes", "2", "--rollout-round-min-timesteps", "60", "--n-round-episodes", "3"]
RUN = ["train", "dagger", *SMALL, *ROUNDS]
EXPERT = """
import os, pathlib, signal

class Seen:
    n = 0

def act(obs):
    Seen.n += 1
    if os.environ.get("BROKEN_AT") == str(Seen.n):
        raise RuntimeError("out of ideas")
    with open("calls", "a") as file:
        file.write("x")
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(int)
"""


def learned(folder: Path) -> dict[str, Any]:
    """What a run must have in common with another of the same options."""
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder / "metrics.jsonl")]
    results = json.loads((folder / "results.json").read_text())
    return {
        "policy": hashlib.sha256((folder / "policy" / "policy.safetensors").read_bytes()).hexdigest(),
        "metrics": lines,
        "returns": results["returns"],
        "rounds": results["rounds"],
        "data": json.loads((folder / "config.json").read_text())["data"],
    }


def test_a_run_without_any_options_but_small(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--total-timesteps", "200", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("CartPole-v1", "random", "expert", "clone", "95 %", "in 3 rounds"))
    names = {path.name for path in Path("run").iterdir()}
    files = {"config.json", "metrics.jsonl", "results.json", "report.html", "journal.jsonl", ".lock"}
    assert names == files | {"policy", "checkpoints", "demos"}
    config = json.loads(Path("run/config.json").read_text())
    assert config["status"] == "finished"
    assert config["data"]["transitions"] == 240  # whole rounds of 80 steps
    assert config["used"]["rounds"] == {"total_timesteps": 200, "n_epochs": 4}
    results = json.loads(Path("run/results.json").read_text())
    assert list(results["returns"]) == ["random", "expert", "clone"]
    assert [each["steps"] for each in results["rounds"]] == [0, 80, 160, 240]
    assert [each["beta"] for each in results["rounds"]] == [None, 1, pytest.approx(14 / 15), pytest.approx(13 / 15)]
    assert all(len(each["returns"]) == 3 for each in results["rounds"])
    assert results["training_note"] == "3 rounds, batches of 32"
    report = Path("run/report.html").read_text()
    assert "Returns by round" in report
    assert "DAgger · CartPole-v1" in report
    clone = load_saved_policy("run/policy/policy.safetensors")
    assert clone.predict(np.zeros((2, 4), np.float32))[0].shape == (2,)


def test_the_defaults_reach_the_expert(in_tmp: Path) -> None:
    assert cli.main(["train", "dagger", "--env", "CartPole-v1", "--no-progress-bar", "--n-eval-episodes", "10"]) == 0
    (results,) = Path("output/dagger/CartPole-v1").glob("*/results.json")
    assert json.loads(results.read_text())["returns"]["clone"]["returns"] == [500.0] * 10


def test_what_a_run_leaves_is_a_trainer(in_tmp: Path) -> None:
    assert cli.main([*RUN, "--total-timesteps", "100", "--out", "run"]) == 0
    venv = make_vec_env("CartPole-v1", rng=np.random.default_rng(0), n_envs=2, max_episode_steps=40)
    expert = load_policy("bundled", venv)
    trainer = reconstruct_trainer("run", venv, checkpoint="run/checkpoints", expert_policy=expert)
    assert trainer.round_num == 2
    assert trainer.demos.n_steps == 160


def until(folder: Path, step: int, program: subprocess.Popen[bytes]) -> None:
    """Wait for a checkpoint."""
    deadline = time.monotonic() + 60
    while not (newest := latest(folder / "checkpoints")) or step_of(newest) < step:
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.fault("F2", "F24")
def test_killed_or_stopped_and_resumed_is_the_same_run(in_tmp: Path) -> None:
    run = [*RUN, "--total-timesteps", "1500", "--beta", "exponential:0.5", "--keep-checkpoints", "3"]
    assert cli.main([*run, "--out", "unbroken"]) == 0
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    module = [sys.executable, "-m", "understudy.scripts.cli"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen([*module, *run, "--out", "broken"], **quiet) as program:  # type: ignore[call-overload]
        until(Path("broken"), 160, program)
        program.kill()
    assert json.loads(Path("broken/config.json").read_text())["status"] == "running"
    command = [*module, "train", "dagger", "--resume", "broken", "--no-progress-bar"]
    with subprocess.Popen(command, **quiet) as program:  # type: ignore[call-overload]
        before = latest(Path("broken/checkpoints"))
        assert before is not None
        until(Path("broken"), step_of(before) + 160, program)
        program.send_signal(signal.SIGTERM)
    assert program.returncode == 143
    assert json.loads(Path("broken/config.json").read_text())["status"] == "interrupted"
    assert Path("broken/policy/policy.safetensors").is_file()
    assert cli.main(["train", "dagger", "--resume", "broken", "--no-progress-bar"]) == 0
    assert learned(Path("broken")) == learned(Path("unbroken"))


@pytest.mark.fault("F14")
def test_an_expert_that_fails_is_asked_on_from_there(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rules.py").write_text(EXPERT)
    monkeypatch.delitem(sys.modules, "rules", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = [*RUN, "--total-timesteps", "160", "--expert", "rules:act", "--n-eval-episodes", "1"]
    monkeypatch.setenv("BROKEN_AT", "31")
    with pytest.raises(RuntimeError, match="out of ideas"):
        cli.main([*run, "--out", "run"])
    assert "train dagger --resume run --expert rules:act" in capsys.readouterr().out
    asked = len(Path("calls").read_text())
    assert cli.main(["train", "dagger", "--resume", "run"]) == 2  # importing runs code: it has to be named again
    assert "--expert rules:act" in " ".join(capsys.readouterr().err.split())
    assert len(Path("calls").read_text()) == asked == 30
    assert cli.main(["train", "dagger", "--resume", "run", "--expert", "rules:act", "--no-progress-bar"]) == 0
    assert "30 were there already" in capsys.readouterr().out
    lines = [line for folder in ("round-000", "round-001") for line in answers(Path("run/demos") / folder)]
    assert len(lines) == 80  # two environments, asked together


def answers(folder: Path) -> list[str]:
    return (folder / "answers.jsonl").read_text().splitlines()[1:]


def test_demonstrations_to_begin_with_are_learned_from(in_tmp: Path) -> None:
    data = str(npz(in_tmp / "mine.npz"))
    begun = ["--demonstrations", data, "--n-demonstrations", "1"]
    assert cli.main([*RUN, "--total-timesteps", "80", "--out", "run", *begun]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert (config["data"]["episodes"], config["data"]["transitions"]) == (3, 100)
    assert json.loads(Path("run/results.json").read_text())["rounds"][-1]["steps"] == 80


def test_only_the_newest_rounds_stay_if_asked(in_tmp: Path) -> None:
    options = ["--keep-checkpoints", "1", "--beta", "0.25", "--n-batches", "3", "--total-timesteps", "160"]
    assert cli.main([*RUN, *options, "--out", "run"]) == 0
    steps = json.loads(Path("run/config.json").read_text())["data"]["transitions"]
    results = json.loads(Path("run/results.json").read_text())
    assert steps >= 160
    assert [(each["steps"], each["beta"]) for each in results["rounds"]] == [(steps, 0.25)]


@pytest.mark.parametrize(
    ("text", "betas"),
    [
        ("linear", [1, 14 / 15, 13 / 15]),
        ("linear:2", [1, 0.5, 0]),
        ("exponential", [1, 0.7, 0.49]),
        ("exponential:0.5", [1, 0.5, 0.25]),
        ("0", [0, 0, 0]),
        ("0.3", [0.3, 0.3, 0.3]),
    ],
)
def test_beta_by_round(text: str, betas: list[float]) -> None:
    schedule = Rounds(beta=text).schedule()
    assert [schedule(i) for i in range(3)] == pytest.approx(betas)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--beta straight", "--beta linear, linear:ROUNDS"),
        ("--beta 1.5", "a number in [0, 1]"),
        ("--beta nan", "a number in [0, 1]"),
        ("--beta linear:0", "rampdown_rounds"),
        ("--beta exponential:2", "in (0, 1]"),
        ("--total-timesteps 0", "--total-timesteps of at least 1"),
        ("--rollout-round-min-timesteps 10", "--batch-size 10"),
        ("--n-epochs 1 --n-batches 1", "one of --n-epochs and --n-batches"),
        ("--n-demonstrations 2", "--demonstrations PATH"),
        ("--demonstrations nowhere.npz", "nowhere.npz"),
        ("--expert none", "--expert human"),
        ("--take-over --beta 0.5", "--take-over or --beta"),
        ("--expert bundled --keys a=left d=right", "--keys with --expert human"),
        ("--take-over", "a terminal to ask a person at"),
        ("--env Acrobot-v1", "an expert to ask"),
        ("--env CartPole-v7", "did you mean CartPole-v1?"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing(
    options: str, told: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "dagger", *options.split()]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert all(part in shown for part in ("expected", "got", "do this"))
    assert not list(in_tmp.iterdir())


@pytest.mark.defect("B15")
def test_a_budget_below_a_rounds_steps_is_one_small_round(in_tmp: Path) -> None:
    one = ["--rollout-round-min-episodes", "1", "--n-round-episodes", "0", "--total-timesteps", "50"]
    assert cli.main(["train", "dagger", *SMALL, *one, "--out", "run"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["data"]["transitions"] == 80  # two episodes of 40 steps at the same time, not 500 steps


def test_metrics_of_rounds_that_are_made_again_are_removed(tmp_path: Path) -> None:
    lines = [{"dagger/round_num": 0}, {"bc/batch": 9}, {"dagger/round_num": 1}, {"bc/batch": 9}]
    path = tmp_path / "metrics.jsonl"
    for first, left in ((2, 4), (1, 2), (0, 0)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        forget_rounds(tmp_path, first)
        assert read_metrics(path) == lines[:left]
