"""Names for things that are built later: loaders of policies, of rewards, and of whatever a user adds."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, RegistryError

T = TypeVar("T")


def load_attr(name: str) -> Any:
    """Import ``"package.module:attribute"`` and give the attribute.

    Raises:
        ConfigError: not of that form, or the module has no such attribute.
        ModuleNotFoundError: no such module.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError("'package.module:attribute'", repr(name), "write a colon between module and attribute")
    module = importlib.import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError as err:
        raise ConfigError(
            f"an attribute of {module_name}", f"{attribute!r}, which it does not have", "correct the name"
        ) from err


class Registry(Generic[T]):
    """A mapping from names to values, where a value may be given as the place to import it from on first use."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], T]] = {}

    def get(self, key: str) -> T:
        """The value registered under ``key``, imported now if it was registered by place.

        Raises:
            RegistryError: nothing is registered under that name; near names are listed.
        """
        if key not in self._sources:
            near = difflib.get_close_matches(key, self._sources, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "register it first"
            raise RegistryError(f"a name among: {', '.join(self._sources) or '(none yet)'}", repr(key), hint)
        return self._sources[key]()

    def keys(self) -> Iterable[str]:
        """All names, in the order of registration."""
        return self._sources.keys()

    def __contains__(self, key: object) -> bool:
        return key in self._sources

    def register(self, key: str, value: T | None = None, indirect: str | None = None) -> None:
        """Add a name; ``register("name", thing)`` works as well as the keyword forms.

        Args:
            key: must be new.
            value: the thing itself.
            indirect: ``"package.module:attribute"``, imported on first use. Exactly one of the two is given.

        Raises:
            RegistryError: the name is taken.
            ConfigError: neither or both of ``value`` and ``indirect``.
        """
        if (value is None) == (indirect is None):
            given = "neither" if value is None else "both"
            raise ConfigError("exactly one of value= and indirect=", given, "pass the thing, or the place to import it")
        if key in self:
            raise RegistryError("a name that is not registered yet", f"{key!r}, which is", "choose another name")
        if indirect is not None:
            self._sources[key] = functools.partial(load_attr, indirect)
        else:
            registered = cast(T, value)
            self._sources[key] = lambda: registered


def build_loader_fn_require_env(fn: Callable[..., T], **kwargs: Any) -> Callable[..., T]:
    """A loader ``load(venv, **more)`` that calls ``fn(venv, **kwargs, **more)``."""

    def load(venv: VecEnv, **more: Any) -> T:
        return fn(venv, **kwargs, **more)

    return load


def build_loader_fn_require_space(fn: Callable[..., T], **kwargs: Any) -> Callable[..., T]:
    """A loader ``load(venv, **more)`` that calls ``fn(observation_space, action_space, **kwargs, **more)``."""

    def load(venv: VecEnv, **more: Any) -> T:
        observation_space: gym.Space[Any] = venv.observation_space
        return fn(observation_space, venv.action_space, **kwargs, **more)

    return load
