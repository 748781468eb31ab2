from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from _small_runs import npz, train


def test_with_own_data_the_bundled_expert_is_nobodys_teacher(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = np.arange(10, 61, 10)
    data = ["--demonstrations", str(npz(in_tmp / "mine.npz", n=60, episode_ends=ends)), "--n-epochs", "1"]
    assert train("--out", "a", *data) == 0
    results = json.loads(Path("a/results.json").read_text())
    assert list(results["returns"]) == ["random", "clone"]
    assert results["action_error"]["against"] == "demonstrations"
    assert results["action_error"]["measured_on"] == "6 training episodes"
    assert "expert" not in capsys.readouterr().out
    assert train("--out", "b", *data, "--expert", "bundled", "--validation-fraction", "0.3") == 0
    results = json.loads(Path("b/results.json").read_text())
    assert list(results["returns"]) == ["random", "bundled expert", "clone"]
    assert results["action_error"]["measured_on"] == "2 held-out episodes"
    assert np.sum(results["actions"]["counts"]) == 20
    assert "it did not give the demonstrations" in " ".join(capsys.readouterr().out.split())
    assert "its expert" not in Path("b/report.html").read_text()


def test_training_tells_what_the_data_doctor_warns_of(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs = 0.05 * np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    good = npz(in_tmp / "good.npz", obs=obs)
    assert train("--out", "a", "--demonstrations", str(good), "--n-epochs", "1") == 0
    assert "in the demonstrations:" not in capsys.readouterr().out
    obs[:, 1] = 2.0
    bad = npz(in_tmp / "bad.npz", obs=obs)
    assert train("--out", "b", "--demonstrations", str(bad), "--n-epochs", "1") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"1 warning in the demonstrations: understudy inspect {bad} --env CartPole-v1" in shown
    assert train("--out", "c", "--expert", "zero", "--n-demonstrations", "2", "--n-epochs", "1") == 0
    assert "in the demonstrations: acts: always the same" in " ".join(capsys.readouterr().out.split())


def test_without_matplotlib_the_terminal_says_so(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert train("--out", "a", "--demonstrations", str(npz(in_tmp / "mine.npz")), "--n-batches", "2") == 0
    assert "pip install 'understudy[plots]'" in " ".join(capsys.readouterr().out.split())
