"""A person at the console as a policy: asked for each action, with any Discrete action space.

``DiscreteInteractivePolicy`` shows an observation in its own way and reads a key; make a subclass with ``_render``, or
use `ConsolePolicy`, which writes the numbers, or one of the two for images. As DAgger's expert::

    keys = OrderedDict({"a": "push left", "d": "push right"})
    expert = ConsolePolicy(venv.observation_space, venv.action_space, keys)
    SimpleDAggerTrainer(venv=venv, expert_policy=expert, …)
"""

from __future__ import annotations

import sys
import tempfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, UnsupportedSpaceError
from understudy.policies._picture import png
from understudy.policies.base import NonTrainablePolicy
from understudy.util.console import clear_screen
from understudy.util.files import write_atomically
from understudy.util.paths import AnyPath, parse_path

Read = Callable[[str], str]
"""Shows a prompt and returns a line, as ``input`` does; EOFError where there are no more."""
Write = Callable[[str], object]
"""Shows a text, as ``print`` does."""


class DiscreteInteractivePolicy(NonTrainablePolicy, ABC):
    """Asks a person for each action, again and again until the answer is one of the keys.

    Args:
        observation_space: of the environment.
        action_space: Discrete.
        action_keys_names: for each action in the space's order, the key a person types and what the action is called.
        clear_screen_on_query: empty the terminal before each question.
        read: asks for a line; None is ``input``.
        write: shows a line; None is ``print``.

    Raises:
        UnsupportedSpaceError: another action space.
        ConfigError: not one key and one name for each action, or one of them twice.
    """

    asks_a_person = True
    """Whoever asks keeps each answer before it is used."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        action_keys_names: OrderedDict[str, str] | Mapping[str, str],
        clear_screen_on_query: bool = True,
        *,
        read: Read | None = None,
        write: Write | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        if not isinstance(action_space, spaces.Discrete):
            raise UnsupportedSpaceError(
                expected="a Discrete action space, so that a key stands for an action",
                got=str(action_space),
                do="wrap the environment so that its actions are a list of choices",
            )
        names = list(action_keys_names.values())
        if len(names) != action_space.n or len(set(names)) != len(names) or not all(action_keys_names):
            raise ConfigError(
                expected=f"{action_space.n} keys with {action_space.n} different names, one an action",
                got=str(dict(action_keys_names)),
                do="pass an OrderedDict such as {'a': 'left', 'd': 'right'}, in the order of the actions",
            )
        self.action_keys_names = OrderedDict(action_keys_names)
        self.clear_screen_on_query = clear_screen_on_query
        self._first = int(action_space.start)
        self._read = read or input
        self._write = write or print

    @abstractmethod
    def _render(self, obs: np.ndarray | dict[str, np.ndarray]) -> None:
        """Show one observation to the person."""

    def _choose_action(self, obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        if self.clear_screen_on_query:
            clear_screen()
        self._render(obs)
        choices = "  ".join(f"[{key}] {name}" for key, name in self.action_keys_names.items())
        keys = list(self.action_keys_names)
        self._write(choices)
        while (answer := self._read("action: ").strip()) not in keys:
            self._write(f"{answer!r} is none of the keys: {', '.join(keys)}")
        return np.asarray(self._first + keys.index(answer), dtype=self.action_space.dtype)


class ConsolePolicy(DiscreteInteractivePolicy):
    """Shows observations as numbers, for any observation space.

    Args:
        args: see `DiscreteInteractivePolicy`.
        entry_names: what the entries of a vector are called, shown beside them.
        kwargs: see `DiscreteInteractivePolicy`.
    """

    def __init__(self, *args: Any, entry_names: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entry_names = entry_names

    def _render(self, obs: np.ndarray | dict[str, np.ndarray]) -> None:
        parts = obs if isinstance(obs, dict) else {"": obs}
        for name, value in parts.items():
            if name:
                self._write(f"{name}:")
            flat = np.asarray(value)
            if self._entry_names and flat.shape == (len(self._entry_names),):
                width = max(map(len, self._entry_names))
                for entry, number in zip(self._entry_names, flat, strict=True):
                    self._write(f"  {entry:<{width}}  {number: .3f}")
            else:
                self._write(f"  {np.array2string(flat, precision=3, suppress_small=True)}")


class ImageObsDiscreteInteractivePolicy(DiscreteInteractivePolicy):
    """Shows image observations: in a window where a terminal has one, else as a picture that is written anew each time.

    Args:
        args: see `DiscreteInteractivePolicy`.
        picture: the PNG to write; None makes one in the temporary folder, and says where. A viewer that follows the
            file shows each observation.
        window: show it with Matplotlib in a window too, which needs a display.
        kwargs: see `DiscreteInteractivePolicy`.

    Raises:
        UnsupportedSpaceError: observations that are no images.
    """

    def __init__(self, *args: Any, picture: AnyPath | None = None, window: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = self.observation_space.shape or ()
        if not isinstance(self.observation_space, spaces.Box) or len(shape) not in (2, 3):
            raise UnsupportedSpaceError(
                expected="image observations of shape (height, width), or with channels first or last",
                got=str(self.observation_space),
                do="use ConsolePolicy, or a subclass of DiscreteInteractivePolicy with a _render of your own",
            )
        self._window = window
        self._axes: Any = None
        if picture is None:
            folder = tempfile.mkdtemp(prefix="understudy-")
            picture = Path(folder) / "observation.png"
        self.picture = parse_path(picture)
        """Where the observation that a person is asked about lies."""

    def _render(self, obs: np.ndarray | dict[str, np.ndarray]) -> None:
        assert isinstance(obs, np.ndarray)
        pixels = self._prepare_obs_image(obs)
        write_atomically(self.picture, png(pixels))
        self._write(f"observation: {self.picture}")
        if self._window:
            self._show(pixels)

    def _prepare_obs_image(self, obs: np.ndarray) -> np.ndarray:
        """The picture to show, bytes of shape (height, width) or (height, width, 3); of a stack, the newest frame."""
        return as_pixels(obs)

    def _show(self, pixels: np.ndarray) -> None:
        import matplotlib.pyplot as plt  # only where a window is asked for

        if self._axes is None:
            _, self._axes = plt.subplots()
            self._axes.axis("off")
        self._axes.clear()
        self._axes.imshow(pixels, cmap="gray")
        plt.pause(0.01)


def as_pixels(image: np.ndarray) -> np.ndarray:
    """Bytes of shape (height, width) or (height, width, 3), from channels first or last, and any number of them.

    One channel is grey, three are colours, of others the last is shown. Numbers that are no bytes are taken to lie
    between their least and greatest.
    """
    if image.ndim == 3:
        if image.shape[0] < min(image.shape[1:]):
            image = np.moveaxis(image, 0, -1)
        if image.shape[-1] != 3:
            image = image[..., -1]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255.0 / (high - low if high > low else 1.0))).astype(np.uint8)
    return np.ascontiguousarray(image)


_ATARI_KEYS = {
    "NOOP": "n",
    "FIRE": "f",
    "UP": "w",
    "LEFT": "a",
    "DOWN": "s",
    "RIGHT": "d",
    "UPLEFT": "q",
    "UPRIGHT": "e",
    "DOWNLEFT": "z",
    "DOWNRIGHT": "c",
}
"""Keys as they lie around a hand; with a capital letter the same and fire."""


class AtariInteractivePolicy(ImageObsDiscreteInteractivePolicy):
    """Plays an Atari game from the console; the keys come from what the game's actions mean.

    Args:
        env: the game, or environments of it.
        args: after the two spaces and the keys, see `ImageObsDiscreteInteractivePolicy`.
        kwargs: see `ImageObsDiscreteInteractivePolicy`.
    """

    def __init__(self, env: gym.Env[Any, Any] | VecEnv, *args: Any, **kwargs: Any) -> None:
        if isinstance(env, VecEnv):
            unwrapped = env.get_attr("unwrapped", indices=0)[0]
            meanings = unwrapped.get_action_meanings()
        else:
            meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        keys = OrderedDict((_atari_key(meaning), meaning) for meaning in meanings)
        super().__init__(env.observation_space, env.action_space, keys, *args, **kwargs)


def _atari_key(meaning: str) -> str:
    if meaning in _ATARI_KEYS:
        return _ATARI_KEYS[meaning]
    return _ATARI_KEYS[meaning.removesuffix("FIRE")].upper()


class ConsoleGate:
    """A person decides when the expert takes over: the ``gate`` of HG-DAgger.

    Enter leaves things as they are, ``t`` takes over, ``r`` returns control to the policy.

    Args:
        read: asks for a line; None is ``input``.
        write: shows a line; None is ``print``.
    """

    asks_a_person = True

    def __init__(self, *, read: Read | None = None, write: Write | None = None) -> None:
        self._read = read or input
        self._write = write or print
        self._drives: list[bool] = []

    def remember(self, drives: np.ndarray) -> None:
        """Go on from here: who is driven by the expert, booleans of shape (env,)."""
        self._drives = [bool(each) for each in drives]

    def __call__(self, obs: Any, policy_acts: np.ndarray) -> np.ndarray:
        """Who is driven by the expert, booleans of shape (env,)."""
        if len(self._drives) != len(policy_acts):
            self._drives = [False] * len(policy_acts)
        for env, act in enumerate(policy_acts):
            driver = "you drive" if self._drives[env] else "the policy drives"
            where = f"environment {env}: " if len(policy_acts) > 1 else ""
            self._write(f"{where}{driver}; the policy would do {act}")
            while (answer := self._read("[t]ake over, [r]eturn, or Enter: ").strip()) not in ("", "t", "r"):
                self._write(f"{answer!r} is none of them")
            self._drives[env] = {"": self._drives[env], "t": True, "r": False}[answer]
        return np.array(self._drives)


def can_ask() -> bool:
    """Whether a person can be at the other end of the console."""
    return sys.stdin is not None and sys.stdin.isatty()
