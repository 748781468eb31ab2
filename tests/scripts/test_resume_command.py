"""``--resume``: killed and stopped runs go on to the same files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from _small_runs import npz

from understudy.errors import FileWriteError
from understudy.scripts import cli
from understudy.scripts._metrics import MetricsWriter
from understudy.scripts._run_folder import read_metrics
from understudy.util.checkpoint import latest, step_of
from understudy.util.journal import Journal
from understudy.util.run_lock import RunLock

SMALL = ["--no-progress-bar", "--n-eval-episodes", "4", "--n-envs", "2", "--max-episode-steps", "60"]
RUN = ["CartPole-v1", *SMALL, "--n-demonstrations", "6", "--n-epochs", "60", "--validation-fraction", "0.2"]
LEGS = ["--checkpoint-every", "50"]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "understudy.scripts.cli", "train", "bc", *args]


def learned(folder: Path) -> dict[str, Any]:
    """What a run must have in common with another of the same options."""
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder / "metrics.jsonl")]
    return {
        "policy": hashlib.sha256((folder / "policy" / "policy.safetensors").read_bytes()).hexdigest(),
        "metrics": lines,
        "returns": json.loads((folder / "results.json").read_text())["returns"],
    }


@pytest.mark.fault("F2", "F24")
def test_killed_and_resumed_is_the_same_run(in_tmp: Path) -> None:
    assert cli.main(["train", "bc", *RUN, *LEGS, "--out", "unbroken"]) == 0
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    with subprocess.Popen(
        command(*RUN, *LEGS, "--out", "killed"), stdout=subprocess.DEVNULL, env=environment
    ) as program:
        deadline = time.monotonic() + 60
        while not (step := latest(Path("killed/checkpoints"))) or step_of(step) < 100:
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        program.kill()
    assert json.loads(Path("killed/config.json").read_text())["status"] == "running"
    assert cli.main(["train", "bc", "--resume", "killed", "--no-progress-bar"]) == 0
    assert learned(Path("killed")) == learned(Path("unbroken"))
    events = [line["event"] for line in Journal(Path("killed/journal.jsonl"))]
    assert events == ["started", "resumed", "finished"]


def test_nothing_is_left_to_do_in_a_finished_run(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    assert cli.main(["train", "bc", "--resume", "run"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    del before[Path("run/.lock")]
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def explained(err: str) -> str:
    return re.sub(r"\s+", " ", err)


@pytest.mark.fault("F15")
def test_a_run_that_is_going_on_is_left_alone(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    with RunLock(Path("run")):
        start = time.perf_counter()
        assert cli.main(["train", "bc", "--resume", "run"]) == 2
        assert cli.main(["train", "bc", *RUN, "--out", "run"]) == 2
        assert time.perf_counter() - start < 2
    assert explained(capsys.readouterr().err).count(f"process {os.getpid()} on {os.uname().nodename}") == 2


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.fault("F6")
def test_a_folder_of_someone_elses_names_no_code_to_import(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    (in_tmp / "evil.py").write_text("open('executed', 'w')")
    sys.path.insert(0, str(in_tmp))
    try:
        options = json.loads(Path("run/config.json").read_text())["options"]
        options["environment"]["env_id"] = "evil:CartPole-v1"
        edited(Path("run"), status="running", options=options)
        assert cli.main(["train", "bc", "--resume", "run"]) == 2
    finally:
        sys.path.remove(str(in_tmp))
    assert "--environment evil:CartPole-v1" in explained(capsys.readouterr().err)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verb": "train dagger"}, "understudy train dagger --resume run"),
        ({"options": {"env": 3}}, "start the run again"),
        ({"options": None}, "start the run again"),
        ({"options": "cut"}, "start the run again"),
        ({"wall_clock_seconds": "long"}, "start the run again"),
        ({"started": None}, "start the run again"),
    ],
)
def test_what_cannot_be_resumed_is_told(
    changes: dict[str, Any], told: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    edited(Path("run"), status="running", **changes)
    assert cli.main(["train", "bc", "--resume", "run"]) == 2
    assert told in explained(capsys.readouterr().err)


@pytest.mark.fault("F6", "F7")
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("cloning", "batch_size", "__import__('os')"),
        ("cloning", "optimizer", "lbfgs"),
        ("cloning", "normalize", 1),
        ("cloning", "net_arch", [10**9]),
        ("cloning", "net_arch", [64, "x"]),
        ("cloning", "net_arch", 64),
        ("environment", "n_envs", 10**9),
        ("compute", "threads", 10**9),
        ("length", "n_epochs", True),
    ],
)
def test_an_option_of_another_kind_is_told(
    part: str, name: str, value: Any, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    options = json.loads(Path("run/config.json").read_text())["options"]
    options[part][name] = value
    edited(Path("run"), status="running", options=options)
    start = time.perf_counter()
    assert cli.main(["train", "bc", "--resume", "run"]) == 2
    assert time.perf_counter() - start < 3
    told = explained(capsys.readouterr().err)
    assert "config.json" in told or f"--{name}".replace("_", "-") in told


def test_metrics_of_another_kind_do_not_stop_a_run(in_tmp: Path) -> None:
    assert cli.main(["train", "bc", *RUN[:-4], "--n-batches", "3", "--out", "run"]) == 0
    Path("run/metrics.jsonl").write_text('3\n{"seconds": "x", "bc/batch": null}\n{"cut')
    edited(Path("run"), status="running")
    assert cli.main(["train", "bc", "--resume", "run", "--no-progress-bar"]) == 0


def test_no_run_there(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "bc", "--resume", "nowhere"]) == 2
    assert "no config.json there" in explained(capsys.readouterr().err)


def test_a_run_on_own_data_is_resumed_from_any_folder(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(in_tmp / "mine.npz")
    run = ["CartPole-v1", *SMALL, "--demonstrations", "mine.npz", "--n-batches", "3", "--out", "run"]
    assert cli.main(["train", "bc", *run]) == 0
    edited(Path("run"), status="running")
    (in_tmp / "elsewhere").mkdir()
    monkeypatch.chdir(in_tmp / "elsewhere")
    assert cli.main(["train", "bc", "--resume", "../run", "--no-progress-bar"]) == 0


@pytest.mark.fault("F3")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_while_logging_is_told() -> None:
    writer = MetricsWriter(Path("/dev/full"))
    with pytest.raises(FileWriteError, match="No space left"):
        writer.write({"a": 1}, {})
    writer.close()
