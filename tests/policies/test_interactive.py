"""A person at the console, played by a script."""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from understudy.algorithms.bc import BC
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.interactive import (
    AtariInteractivePolicy,
    ConsoleGate,
    ConsolePolicy,
    DiscreteInteractivePolicy,
    ImageObsDiscreteInteractivePolicy,
    as_pixels,
)
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.logger import configure

VECTOR = spaces.Box(-9, 9, (2,), np.float32)
KEYS = OrderedDict({"a": "left", "d": "right", "w": "jump"})


class Terminal:
    """Types what the script says, and keeps what is shown."""

    def __init__(self, typed: Iterable[str]) -> None:
        self._typed = iter(typed)
        self.shown: list[str] = []
        self.n_read = 0

    def read(self, prompt: str) -> str:
        self.shown.append(prompt)
        answer = next(self._typed, None)
        if answer is None:
            raise EOFError
        self.n_read += 1
        return answer

    def write(self, text: str) -> None:
        self.shown.append(text)

    def __str__(self) -> str:
        return "\n".join(self.shown)


def console(typed: Iterable[str], **options: Any) -> tuple[ConsolePolicy, Terminal]:
    terminal = Terminal(typed)
    space = options.pop("action_space", spaces.Discrete(3))
    obs = options.pop("observation_space", VECTOR)
    return ConsolePolicy(obs, space, KEYS, read=terminal.read, write=terminal.write, **options), terminal


def test_keys_become_actions_in_the_spaces_order() -> None:
    policy, terminal = console(["w", "a", "d"])
    acts = [policy.predict(np.zeros(2, np.float32))[0].item() for _ in range(3)]
    assert acts == [2, 0, 1]
    assert "[a] left  [d] right  [w] jump" in str(terminal)


def test_it_asks_until_the_answer_is_a_key() -> None:
    policy, terminal = console(["x", "", "left", " d "])
    assert policy.predict(np.zeros(2, np.float32))[0] == 1
    assert terminal.n_read == 4
    assert "'x' is none of the keys: a, d, w" in str(terminal)


def test_actions_that_do_not_start_at_zero() -> None:
    policy, _ = console(["d"], action_space=spaces.Discrete(3, start=5))
    assert policy.predict(np.zeros(2, np.float32))[0] == 6


def test_one_question_an_environment() -> None:
    policy, terminal = console(["a", "d"])
    acts, _ = policy.predict(np.array([[1, 2], [3, 4]], np.float32))
    assert acts.tolist() == [0, 1]
    assert "[1. 2.]" in str(terminal)
    assert "[3. 4.]" in str(terminal)


def test_entries_can_have_names() -> None:
    policy, terminal = console(["a"], entry_names=("place", "speed"))
    policy.predict(np.array([1.5, -2.25], np.float32))
    assert "  place   1.500" in str(terminal)
    assert "  speed  -2.250" in str(terminal)


def test_dictionaries_are_shown_by_entry() -> None:
    space = spaces.Dict({"goal": VECTOR, "here": VECTOR})
    policy, terminal = console(["d"], observation_space=space)
    policy.predict({"goal": np.ones(2, np.float32), "here": np.zeros(2, np.float32)})
    assert "goal:\n  [1. 1.]\nhere:\n  [0. 0.]" in str(terminal)


def test_only_discrete_actions() -> None:
    with pytest.raises(UnsupportedSpaceError, match="Discrete"):
        console([], action_space=spaces.MultiDiscrete([3]))


@pytest.mark.parametrize(
    "keys", [{"a": "left"}, {"a": "left", "b": "left", "c": "jump"}, {"": "x", "b": "y", "c": "z"}]
)
def test_a_key_and_a_name_an_action(keys: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="3 keys"):
        ConsolePolicy(VECTOR, spaces.Discrete(3), keys)


def test_the_base_is_for_subclasses() -> None:
    with pytest.raises(TypeError, match="_render"):
        DiscreteInteractivePolicy(VECTOR, spaces.Discrete(3), KEYS)  # type: ignore[abstract]


# --- images -------------------------------------------------------------------------------------------------------


def unpacked(content: bytes) -> np.ndarray:
    """The pixels of a PNG without filters; its sums are checked."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + length
    width, height, _, colour = struct.unpack(">2I2B", chunks[b"IHDR"][:10])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape((height, width, 3) if channels == 3 else (height, width))


@pytest.mark.parametrize("shape", [(40, 50, 1), (40, 50, 3), (40, 50, 4), (4, 40, 50), (3, 40, 50)])
def test_images_are_saved_as_pictures(shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator) -> None:
    terminal = Terminal(["d"])
    policy = ImageObsDiscreteInteractivePolicy(
        spaces.Box(0, 255, shape, np.uint8),
        spaces.Discrete(3),
        KEYS,
        picture=tmp_path / "now.png",
        read=terminal.read,
        write=terminal.write,
    )
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    assert policy.predict(image)[0] == 1
    last = image if shape[-1] == 50 else np.moveaxis(image, -1, 0)
    expected = np.moveaxis(last, 0, -1) if len(last) == 3 else last[-1]
    assert np.array_equal(unpacked((tmp_path / "now.png").read_bytes()), expected)
    assert str(tmp_path / "now.png") in str(terminal)


def test_numbers_that_are_no_bytes_span_the_greys() -> None:
    assert as_pixels(np.array([[0.0, 0.5], [1.0, 0.25]])).tolist() == [[0, 127], [255, 63]]
    assert as_pixels(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_vectors_are_no_images() -> None:
    with pytest.raises(UnsupportedSpaceError, match="ConsolePolicy"):
        ImageObsDiscreteInteractivePolicy(VECTOR, spaces.Discrete(3), KEYS)


class Game(gym.Env[Any, Any]):
    """Has meanings for its actions, as Atari games do."""

    observation_space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
    action_space = spaces.Discrete(4)

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "UPLEFT", "UPLEFTFIRE"]


@pytest.mark.parametrize("vectorised", [False, True])
def test_games_name_their_keys(vectorised: bool, tmp_path: Path) -> None:
    env: Any = LeanDummyVecEnv([Game]) if vectorised else Game()
    policy = AtariInteractivePolicy(env, picture=tmp_path / "now.png")
    assert list(policy.action_keys_names.items()) == [
        ("n", "NOOP"),
        ("f", "FIRE"),
        ("q", "UPLEFT"),
        ("Q", "UPLEFTFIRE"),
    ]


# --- taking over --------------------------------------------------------------------------------------------------


def test_a_person_takes_over_and_gives_back() -> None:
    terminal = Terminal(["", "t", "", "x", "r"])
    gate = ConsoleGate(read=terminal.read, write=terminal.write)
    acts = np.array([1])
    assert [gate(None, acts).tolist() for _ in range(4)] == [[False], [True], [True], [False]]
    assert "you drive; the policy would do 1" in str(terminal)


# --- as DAgger's expert -------------------------------------------------------------------------------------------


class Corridor(gym.Env[Any, Any]):
    """Six steps; shows the step and a coin."""

    observation_space = VECTOR
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return self._obs(), 0.0, self._t == 6, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self._t, self.np_random.integers(2)], np.float32)


def trained(folder: Path, expert: Any, total: int = 24, **options: Any) -> SimpleDAggerTrainer:
    venv = LeanDummyVecEnv([Corridor])
    bc = BC(
        observation_space=VECTOR,
        action_space=spaces.Discrete(3),
        rng=0,
        batch_size=4,
        custom_logger=configure(format_strs=[]),
    )
    trainer = SimpleDAggerTrainer(venv=venv, scratch_dir=folder, expert_policy=expert, rng=0, bc_trainer=bc, **options)
    small = {"rollout_round_min_episodes": 2, "rollout_round_min_timesteps": 12}
    trainer.train(total, **small, bc_train_kwargs={"log_rollouts_n_episodes": 0})
    return trainer


@pytest.mark.fault("F14")
def test_a_person_who_leaves_and_comes_back_is_asked_on(tmp_path: Path) -> None:
    typed = ["adw"[i % 3] for i in range(24)]
    whole = trained(tmp_path / "whole", console(typed)[0])
    sessions = [typed[:7], typed[7:8], typed[8:13], typed[13:]]
    for session in sessions[:-1]:
        with pytest.raises(EOFError):
            trained(tmp_path / "parts", console(session)[0])
    policy, terminal = console(sessions[-1])
    parts = trained(tmp_path / "parts", policy)
    assert terminal.n_read == len(sessions[-1])
    a, b = whole.demos.demonstrations(), parts.demos.demonstrations()
    assert np.array_equal(a.acts, ["adw".index(key) for key in typed])
    assert np.array_equal(a.acts, b.acts)
    assert np.array_equal(a.frames, b.frames)


@pytest.mark.fault("F14")
def test_takeovers_are_kept_as_well(tmp_path: Path) -> None:
    # Of twelve steps a round the person drives from the third to the fifth of each episode.
    def gate_of(typed: list[str]) -> ConsoleGate:
        terminal = Terminal(typed)
        return ConsoleGate(read=terminal.read, write=terminal.write)

    decisions = ["", "", "t", "", "", "r"] * 2
    whole = trained(tmp_path / "whole", console(["d"] * 6)[0], 12, gate=gate_of(decisions))
    with pytest.raises(EOFError):  # the seat is left after the eighth question about driving
        trained(tmp_path / "parts", console(["d"] * 6)[0], 12, gate=gate_of(decisions[:8]))
    parts = trained(tmp_path / "parts", console(["d"] * 3)[0], 12, gate=gate_of(decisions[8:]))
    for each in (whole, parts):
        demos = each.demos.demonstrations()
        assert demos.frames[demos.obs_rows][:, 0].tolist() == [2, 3, 4, 2, 3, 4]
        assert each.demos.n_steps == 12
