from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ConfigError, CorruptFileError
from understudy.scripts import _run_folder as rf
from understudy.scripts._metrics import MetricsWriter, metrics_logger, silent_logger


@dataclasses.dataclass(frozen=True)
class Options:
    rate: float = 0.5
    out: Path = Path("somewhere")


def _folder(path: Path) -> rf.RunFolder:
    return rf.RunFolder(path, verb="train bc", options=Options(), seed=7, command="understudy train bc")


def test_config_is_there_from_the_start_and_tells_the_end(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "deep" / "run")
    assert not folder.path.exists()
    with folder:
        config = json.loads((folder.path / "config.json").read_text())
        assert config["status"] == "running"
        assert config["seed"] == 7
        assert config["options"] == {"rate": 0.5, "out": "somewhere"}
        assert config["hardware"]["cores"] >= 1
        folder.save_config(data={"episodes": np.int64(3)})
    config = json.loads((folder.path / "config.json").read_text())
    assert config["status"] == "finished"
    assert config["data"] == {"episodes": 3}


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "interrupted"), (ValueError("odd"), "failed")])
def test_how_a_run_ended_is_written(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), _folder(tmp_path / "run"):
        raise error
    assert json.loads((tmp_path / "run" / "config.json").read_text())["status"] == status


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    with _folder(tmp_path / "run"):
        pass
    with pytest.raises(ConfigError, match="another --out"):
        _folder(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can be written to"), _folder(tmp_path / "file" / "run"):
        pass


def test_plain_values_are_strict_json() -> None:
    value = {"a": np.array([1.0, np.nan]), "b": (np.float32(0.5), None, True), 3: float("inf"), "p": Path("x")}
    assert rf.plain(value) == {"a": [1.0, None], "b": [0.5, None, True], "3": None, "p": "x"}


def test_default_paths_do_not_meet(tmp_path: Path) -> None:
    first = rf.default_path("bc", "seals/CartPole-v0", tmp_path)
    assert first.parent == tmp_path / "bc" / "seals_CartPole-v0"
    first.mkdir(parents=True)
    assert rf.default_path("bc", "seals/CartPole-v0", tmp_path) != first


def test_a_damaged_file_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"config\.json"):
        rf.read_json(tmp_path / "config.json")


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"loss": np.float32(0.5), "text": "no", "bad": float("nan")}, {}, step=3)
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    (line,) = rf.read_metrics(path)
    assert (line["step"], line["loss"], line["bad"]) == (3, 0.5, None)
    assert "text" not in line
    assert rf.read_metrics(tmp_path / "none.jsonl") == []


def test_loggers(tmp_path: Path) -> None:
    silent_logger().record("x", 1)
    logger = metrics_logger(tmp_path)
    logger.record("bc/loss", 2.0)
    logger.dump(step=5)
    logger.close()
    assert rf.read_metrics(tmp_path / "metrics.jsonl")[0]["bc/loss"] == 2


def test_git_state(tmp_path: Path) -> None:
    assert rf.git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    state = rf.git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert not state["changed"]
    (tmp_path / "new").write_text("")
    assert rf.git_state(tmp_path) == {**state, "changed": True}
