"""``--expert human`` at a pseudo-terminal: nothing that was answered is lost."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from _terminal import Terminal

from understudy.data import serialize
from understudy.errors import ConfigError
from understudy.scripts import _person, cli
from understudy.util.vec_env import make_vec_env

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")

SMALL = ["--max-episode-steps", "20", "--n-eval-episodes", "4"]
ROUNDS = ["--rollout-round-min-episodes", "1", "--rollout-round-min-timesteps", "16", "--n-round-episodes", "0"]
TEACH = [
    "train",
    "dagger",
    "CartPole-v1",
    "--expert",
    "human",
    "--batch-size",
    "16",
    "--total-timesteps",
    "40",
    *ROUNDS,
    *SMALL,
]


def balance(entries: dict[str, float]) -> str:
    return "d" if entries["pole angle"] + 0.5 * entries["pole velocity"] > 0 else "a"


def sum_of(folder: str) -> str:
    return hashlib.sha256(Path(folder, "policy/policy.safetensors").read_bytes()).hexdigest()


@pytest.mark.fault("F14")
def test_a_person_is_killed_stops_and_goes_on_and_is_asked_nothing_twice(in_tmp: Path) -> None:
    with Terminal(*TEACH, "--out", "unbroken") as session:
        assert not session.play(balance)
        assert session.end() == 0
        assert session.n_answers == 40  # two rounds of an episode
        assert "question 40" in session.shown
        assert "The expert is a person" in session.shown
    total = 0
    with Terminal(*TEACH, "--out", "broken") as session:
        assert session.play(balance, 13)
        session.process.kill()
        total += session.n_answers
    with Terminal("train", "dagger", "--resume", "broken") as session:
        assert session.play(balance, 15)  # into the second round
        assert session.stop(signal.SIGINT) == 130
        assert "go on" in session.shown
        total += session.n_answers
    with Terminal("train", "dagger", "--resume", "broken") as session:
        assert not session.play(balance)
        assert session.end() == 0
        total += session.n_answers
    assert total == 40
    assert sum_of("broken") == sum_of("unbroken")


@pytest.mark.fault("F14")
def test_a_recording_by_hand_goes_on_where_it_was_stopped(in_tmp: Path) -> None:
    record = ["rollout", "CartPole-v1", "--policy", "human", "--n-episodes", "2", *SMALL[:2], "--out", "data"]
    with Terminal(*record) as session:
        assert session.play(balance, 15)
        assert session.stop(signal.SIGTERM) == 143
    with Terminal(*record) as session:
        assert not session.play(balance)
        assert session.end() == 0
        assert session.n_answers == 25
    assert [len(each) for each in serialize.load("data")] == [20, 20]
    assert [path.name for path in in_tmp.iterdir()] == ["data"]


def test_a_clone_of_what_a_person_showed(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []

    def read(prompt: str) -> str:
        if len(given) == 8 and not stopped:
            stopped.append(True)
            raise _person.QuestionInterrupted(signal.SIGINT)
        given.append("ad"[len(given) % 2])
        return given[-1]

    stopped: list[bool] = []
    monkeypatch.setattr(_person, "can_ask", lambda: True)
    monkeypatch.setattr(_person, "read_answer", read)
    show = ["train", "bc", "CartPole-v1", "--expert", "human", "--n-demonstrations", "1", "--n-batches", "2", *SMALL]
    assert cli.main([*show, "--no-progress-bar", "--out", "run"]) == 130
    assert "understudy train bc --resume run" in capsys.readouterr().out
    assert cli.main(["train", "bc", "--resume", "run", "--no-progress-bar"]) == 0
    assert len(given) == 20
    results = json.loads(Path("run/results.json").read_text())
    assert list(results["returns"]) == ["random", "demonstrations", "clone"]
    assert results["returns"]["demonstrations"]["returns"] == [20.0]
    assert results["action_error"]["measured_on"] == "1 training episode"


def test_a_person_takes_over_from_the_clone(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        return {1: "t", 6: "r"}.get(len(prompts), "")

    monkeypatch.setattr(_person, "can_ask", lambda: True)
    monkeypatch.setattr(_person, "read_answer", read)
    teach = ["train", "dagger", "--take-over", "--batch-size", "5", "--rollout-round-min-timesteps", "5"]
    options = ["--total-timesteps", "5", "--rollout-round-min-episodes", "1", "--n-round-episodes", "0", *SMALL]
    assert cli.main([*teach, *options, "--out", "run"]) == 0
    assert json.loads(Path("run/config.json").read_text())["data"]["transitions"] == 5  # steps 1 to 5
    assert "pole angle" in capsys.readouterr().out


def asked(env_id: str, monkeypatch: pytest.MonkeyPatch, *keys: str, journal: Path | None = None) -> Any:
    monkeypatch.setattr(_person, "can_ask", lambda: True)
    venv = make_vec_env(env_id, rng=np.random.default_rng(0), n_envs=1)
    return _person.ask_a_person(venv, env_id, keys, journal)


def test_keys_are_the_usual_ones_or_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(asked("CartPole-v1", monkeypatch).action_keys_names) == {"a": "push left", "d": "push right"}
    assert list(asked("Acrobot-v1", monkeypatch).action_keys_names) == ["a", "s", "d"]
    assert dict(asked("CartPole-v1", monkeypatch, "1=l", "2=r").action_keys_names) == {"1": "l", "2": "r"}
    for keys in (["1=l"], ["1=l", "1=r"], ["1", "2=r"], ["1=x", "2=x"]):
        with pytest.raises(ConfigError):
            asked("CartPole-v1", monkeypatch, *keys)


def test_answers_of_another_session_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    person = asked("CartPole-v1", monkeypatch, journal=tmp_path / "answers.jsonl")
    monkeypatch.setattr(person, "_read", lambda prompt: "d")
    obs = np.zeros(4, np.float32)
    assert person.predict(obs)[0] == 1
    again = asked("CartPole-v1", monkeypatch, journal=tmp_path / "answers.jsonl")
    monkeypatch.setattr(again, "_read", lambda prompt: pytest.fail("asked again"))
    assert again.predict(obs)[0] == 1
    other = asked("CartPole-v1", monkeypatch, journal=tmp_path / "answers.jsonl")
    with pytest.raises(ConfigError, match="another one"):
        other.predict(obs + 1)


class Pictures(gym.Env[np.ndarray, int]):
    """Nothing but an image."""

    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(2, start=3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.full((8, 8, 3), 9, np.uint8), {}


def test_images_are_shown_as_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    gym.register("Pictures-v0", Pictures, max_episode_steps=3)
    try:
        person = asked("Pictures-v0", monkeypatch)
    finally:
        del gym.registry["Pictures-v0"]
    assert dict(person.action_keys_names) == {"0": "action 3", "1": "action 4"}
    monkeypatch.setattr(person, "_read", lambda prompt: "1")
    monkeypatch.setattr(person, "_write", lambda line: None)
    assert person.predict(np.full((8, 8, 3), 9, np.uint8))[0] == 4
    assert person.picture.read_bytes().startswith(b"\x89PNG")
