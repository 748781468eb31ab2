"""A person at the console who shows how it is done, and of whose answers none is lost."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies.interactive import (
    ConsoleGate,
    ConsolePolicy,
    DiscreteInteractivePolicy,
    ImageObsDiscreteInteractivePolicy,
    can_ask,
)
from understudy.util.journal import Journal

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_CROSS = {"a": "left", "s": "down", "d": "right", "w": "up"}
_KNOWN_KEYS: dict[str, dict[str, str]] = {
    "CartPole": {"a": "push left", "d": "push right"},
    "MountainCar": {"a": "push left", "s": "nothing", "d": "push right"},
    "Acrobot": {"a": "torque -1", "s": "nothing", "d": "torque +1"},
    "LunarLander": {"s": "nothing", "a": "left engine", "w": "main engine", "d": "right engine"},
    "FrozenLake": _CROSS,
    "CliffWalking": {"w": "up", "d": "right", "s": "down", "a": "left"},
}
_KNOWN_ENTRIES: dict[str, tuple[str, ...]] = {
    "CartPole": ("cart position", "cart velocity", "pole angle", "pole velocity"),
    "MountainCar": ("position", "velocity"),
    "Acrobot": ("cos of angle 1", "sin of angle 1", "cos of angle 2", "sin of angle 2", "velocity 1", "velocity 2"),
}


class QuestionInterrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or the end of the input while a person was being asked; ``signal`` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number} at a question")
        self.signal = number


def read_answer(prompt: str) -> str:
    """A line from the console.

    Raises:
        QuestionInterrupted: a wish to stop, which would otherwise have to wait for an answer.
    """
    with _signals_raise():
        try:
            if _can_wait():
                print(prompt, end="", flush=True)
                _wait_for_a_line()
                return input()
            return input(prompt)
        except EOFError:
            print()
            raise QuestionInterrupted(signal.SIGINT) from None
        except QuestionInterrupted:
            print()
            raise


def _can_wait() -> bool:
    return os.name != "nt" and sys.stdin.isatty() and threading.current_thread() is threading.main_thread()


def _wait_for_a_line() -> None:
    """Wait for the console, or for a signal.

    A signal that comes just before ``input`` begins to read would be noticed after the next line only; what it writes
    to a pipe is noticed whenever it came.
    """
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    before = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    try:
        select.select([sys.stdin, told], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        os.close(tells)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise QuestionInterrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def check_console() -> None:
    """Raise ConfigError unless a person can be asked."""
    if not can_ask():
        raise ConfigError(
            "a terminal to ask a person at, for 'human'",
            "an input that is no terminal",
            "start the command in a terminal, without a pipe or a batch system",
        )


def ask_a_person(
    venv: VecEnv, env_id: str, keys: Sequence[str], journal: Path | None = None
) -> DiscreteInteractivePolicy:
    """A policy that asks at the console.

    Args:
        venv: the environments; with a Discrete action space.
        env_id: decides what keys and entries are called, where that is known.
        keys: ``key=name`` for each action in order; none for the usual ones.
        journal: file that keeps each answer, for experts that nobody else keeps answers of.

    Raises:
        ConfigError: no terminal, or not one key an action.
        UnsupportedSpaceError: actions that are no list of choices.
    """
    space = venv.action_space
    if not isinstance(space, spaces.Discrete):
        raise UnsupportedSpaceError(
            "a Discrete action space, so that a key stands for an action",
            str(space),
            "answer with code: --expert module:function",
        )
    check_console()
    named = _named(keys) if keys else _usual_keys(venv, env_id, space)
    images = isinstance(venv.observation_space, spaces.Box) and len(venv.observation_space.shape) in (2, 3)
    kind: Any = _PersonWithPicture if images else _PersonWithNumbers
    options = {} if images else {"entry_names": _of(env_id, _KNOWN_ENTRIES) or ()}
    person = kind(venv.observation_space, space, named, read=read_answer, **options)
    person.keep_answers(journal)
    return person  # type: ignore[no-any-return]


class _Remembering(DiscreteInteractivePolicy):
    """Numbers its questions; answers that are in its journal, for the same observation, are not asked again."""

    _n_questions = 0
    _journal: Journal | None = None
    _kept: Iterator[Any] = iter(())

    def keep_answers(self, path: Path | None) -> None:
        """Keep them in this file, and take those that are there."""
        if path is not None:
            self._journal = Journal(path)
            self._kept = iter(list(self._journal))

    def _choose_action(self, obs: Any) -> np.ndarray:
        self._n_questions += 1
        if self._journal is None:
            return super()._choose_action(obs)
        arrays = [np.ascontiguousarray(obs[key]) for key in sorted(obs)] if isinstance(obs, dict) else [obs]
        total = 0
        for array in arrays:
            total = zlib.crc32(np.ascontiguousarray(array).data, total)
        kept = next(self._kept, None)
        if kept is not None and kept.get("obs") == total:
            return np.asarray(kept["answer"], dtype=self.action_space.dtype)
        if kept is not None:
            raise ConfigError(
                f"the observation that answer {self._n_questions} in {self._journal.path} was given for",
                "another one",
                "go on with the same options and seed, or move that file away",
            )
        answer = super()._choose_action(obs)
        self._journal.path.parent.mkdir(parents=True, exist_ok=True)
        self._journal.append({"obs": total, "answer": answer.tolist()})
        return answer

    def _render(self, obs: Any) -> None:
        self._write(f"question {self._n_questions}   (Ctrl-C stops; no answer is lost)")
        super()._render(obs)  # type: ignore[safe-super]


class _PersonWithNumbers(_Remembering, ConsolePolicy):
    """Shows numbers."""


class _PersonWithPicture(_Remembering, ImageObsDiscreteInteractivePolicy):
    """Shows pictures."""


class ShownGate(ConsoleGate):
    """Asks at each step who drives, and shows the observation first.

    Args:
        env_id: decides what the entries are called, where that is known.
    """

    def __init__(self, env_id: str) -> None:
        super().__init__(read=read_answer)
        self._names = _of(env_id, _KNOWN_ENTRIES) or ()

    def __call__(self, obs: Any, policy_acts: np.ndarray) -> np.ndarray:
        """Who is driven by the expert, booleans of shape (env,)."""
        for each in obs if isinstance(obs, np.ndarray) else [obs]:
            if isinstance(each, np.ndarray) and each.shape == (len(self._names),):
                shown = [f"{name} {value:.3f}" for name, value in zip(self._names, each, strict=True)]
            else:
                shown = [str(each)]
            print("  ".join(shown))
        return super().__call__(obs, policy_acts)


def _of(env_id: str, table: dict[str, Any]) -> Any:
    bare = env_id.rpartition(":")[2].rpartition("/")[2]
    return next((value for name, value in table.items() if bare.startswith(name)), None)


def _usual_keys(venv: VecEnv, env_id: str, space: spaces.Discrete) -> OrderedDict[str, str]:
    known = _of(env_id, _KNOWN_KEYS)
    if known is not None and len(known) == space.n:
        return OrderedDict(known)
    n = int(space.n)
    if n > len(_DIGITS):
        raise ConfigError(f"a key for each of the {n} actions", "none", "pass --keys KEY=NAME …, in the actions' order")
    names = [f"action {int(space.start) + i}" for i in range(n)]
    with contextlib.suppress(AttributeError, IndexError, TypeError):
        meanings = [str(each).lower() for each in venv.get_attr("unwrapped", 0)[0].get_action_meanings()]
        if len(set(meanings)) == n:
            names = meanings
    return OrderedDict(zip(_DIGITS, names, strict=False))


def _named(keys: Sequence[str]) -> OrderedDict[str, str]:
    named: OrderedDict[str, str] = OrderedDict()
    for text in keys:
        key, equals, name = text.partition("=")
        if not (key and equals and name) or key in named:
            raise ConfigError(
                "--keys KEY=NAME for each action, in order, each key once", repr(text), "as in --keys a=left d=right"
            )
        named[key] = name
    return named
