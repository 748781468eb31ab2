"""Raw and mean keys and their files; every format; contexts that survive exceptions."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common import logger as sb_logger

from understudy.errors import ConfigError, MissingExtraError
from understudy.util import logger


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_values_go_raw_to_their_folder_and_as_means_to_the_default(tmp_path):
    log = logger.configure(tmp_path, ["csv"])
    with log.add_accumulate_prefix("acc"):
        assert log.get_accumulate_prefixes() == "acc/"
        with log.accumulate_means("disc"):
            assert log.get_dir() == str(tmp_path / "raw" / "acc" / "disc")
            for step, loss in enumerate([1.0, 3.0, 8.0]):
                with log.add_key_prefix("kp"):
                    log.record("loss", loss)
                log.dump(step)
    log.record("top", 5)
    log.dump(0)
    log.close()
    assert read_csv(tmp_path / "progress.csv") == [{"mean/acc/disc/kp/loss": "4.0", "top": "5"}]
    raw = read_csv(tmp_path / "raw" / "acc" / "disc" / "progress.csv")
    assert [row["raw/acc/disc/kp/loss"] for row in raw] == ["1.0", "3.0", "8.0"]
    assert log.get_accumulate_prefixes() == ""


def test_means_start_again_after_a_dump_and_the_raw_file_goes_on(tmp_path):
    log = logger.configure(tmp_path, ["json"])
    for value in (1.0, 5.0):
        with log.accumulate_means("gen"):
            log.record("x", value)
            log.record_mean("y", value)
            log.dump()
        log.dump()
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert lines == [{"mean/gen/x": 1.0, "mean/gen/y": 1.0}, {"mean/gen/x": 5.0, "mean/gen/y": 5.0}]
    assert len((tmp_path / "raw" / "gen" / "progress.json").read_text().splitlines()) == 2


def test_contexts_do_not_nest_wrongly_and_close_after_errors(tmp_path):
    log = logger.configure(tmp_path, [])
    with pytest.raises(RuntimeError, match="outside accumulate_means"), log.add_key_prefix("x"):
        pass
    with log.accumulate_means("a"):
        with pytest.raises(RuntimeError, match="inside accumulate_means"), log.accumulate_means("b"):
            pass
        with pytest.raises(RuntimeError, match="inside accumulate_means"), log.add_accumulate_prefix("b"):
            pass
    with pytest.raises(ZeroDivisionError), log.add_accumulate_prefix("p"), log.accumulate_means("a"):
        raise ZeroDivisionError
    assert log.current_logger is None
    assert log.get_accumulate_prefixes() == ""
    assert log.get_dir() == str(tmp_path)


def test_csv_survives_new_keys_and_awkward_text(tmp_path):
    log = logger.configure(tmp_path, ["csv"])
    log.record("b", 1)
    log.record("text", 'a "quoted", line\nand another')
    log.dump()
    for row in ({"c": 2.0, "a": 3.0}, {"b": 4}):
        for key, value in row.items():
            log.record(key, value)
        log.dump()
    log.close()
    rows = read_csv(tmp_path / "progress.csv")
    assert list(rows[0]) == ["b", "text", "a", "c"]  # new columns in an order of their own, not a set's
    assert rows[0]["text"] == 'a "quoted", line\nand another'
    assert [(row["a"], row["b"], row["c"]) for row in rows] == [("", "1", ""), ("3.0", "", "2.0"), ("", "4", "")]


def test_json_lines_stay_json(tmp_path):
    log = logger.configure(tmp_path, ["json"])
    log.record("nan", float("nan"))
    log.record("inf", np.float32("inf"))
    log.record("array", np.arange(2))
    log.record("tensor", torch.tensor(1.5))
    log.record("hidden", 1, exclude="json")
    log.dump()
    log.close()

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    parsed = json.loads((tmp_path / "progress.json").read_text(), parse_constant=refuse)
    assert parsed == {"nan": None, "inf": None, "array": [0, 1], "tensor": 1.5}


def test_tables_take_long_keys_and_nothing(tmp_path, capsys):
    log = logger.configure(tmp_path, ["stdout", "log"])
    log.dump()  # nothing recorded: no warning, no table
    assert capsys.readouterr().out == ""
    log.record("k" * 60 + "1", 1)
    log.record("k" * 60 + "2", 2)
    log.dump()
    log.log("a line")
    log.close()
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert "k" * 60 + "1" in text
        assert "k" * 60 + "2" in text
        assert "a line" in text


def test_default_folder_is_new_each_time_and_under_the_temporary_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = logger.configure(), logger.configure(format_strs=["csv"])
    assert list(first.format_strs) == ["stdout", "log", "csv"]
    assert first.get_dir() != second.get_dir()
    assert Path(first.get_dir()).parent == tmp_path
    first.close()
    second.close()


def test_level_and_text(tmp_path):
    log = logger.configure(tmp_path, ["log"])
    with log.accumulate_means("a"):
        log.record("x", 1)
    log.set_level(sb_logger.DISABLED)
    log.log("not written")
    log.dump()
    log.close()
    assert (tmp_path / "log.txt").read_text() == ""


def test_sb3_accepts_it(tmp_path):
    log = logger.configure(tmp_path, ["csv"])
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
    model.set_logger(log)
    with log.accumulate_means("gen"):
        model.learn(64)
        assert "raw/gen/train/loss" in log.name_to_value
    log.dump()
    log.close()
    [row] = read_csv(tmp_path / "progress.csv")
    assert float(row["mean/gen/train/loss"]) != 0


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    log = logger.configure(tmp_path, ["tensorboard"])
    log.record("x", 1.0)
    log.dump(3)
    log.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_wandb_gets_one_row_a_dump_and_only_from_the_default_logger(tmp_path, monkeypatch):
    rows: list[tuple[dict[str, object], int]] = []
    fake = types.ModuleType("wandb")
    fake.log = lambda values, step, commit: rows.append((dict(values), step))  # type: ignore[attr-defined]
    fake.finish = lambda: rows.append(({}, -1))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = logger.configure(tmp_path, ["wandb"])
    with log.accumulate_means("a"):
        log.record("x", 2.0)
        log.dump(7)
    log.record("secret", 1, exclude="wandb")
    log.dump(1)
    log.close()
    assert rows == [({"mean/a/x": 2.0}, 1), ({}, -1)]


def test_missing_extras_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"understudy\[wandb\]"):
        logger.configure(tmp_path, ["wandb"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"understudy\[tensorboard\]"):
        logger.configure(tmp_path, ["tensorboard"])
    with pytest.raises(ConfigError, match="'xml'"):
        logger.configure(tmp_path, ["xml"])
