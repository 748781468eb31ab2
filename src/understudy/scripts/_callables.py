"""An expert of the user's own as ``module:name``: a function of the observations, or an object with ``predict``."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.errors import ConfigError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"{_NAME}:{_NAME}")
_EXAMPLE = "write for example --expert my_expert:act, with def act(obs): in my_expert.py"


def is_reference(spec: str) -> bool:
    """Whether ``spec`` has the form ``module:name``; importing it runs the module's code."""
    return _REFERENCE.fullmatch(spec) is not None and not Path(spec).exists()


def import_expert(spec: str, venv: VecEnv) -> Any:
    """What ``module:name`` stands for, as something that acts; modules of the working directory are found first.

    Returns:
        A Stable-Baselines3 model or policy as it is, anything else as a `FunctionExpert` or a function of
        observations, state and episode starts.

    Raises:
        ConfigError: no such module or name, or something that cannot act.
        SpaceMismatchError: a policy that was made for other spaces.
    """
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy

    from understudy.data.acting import check_policy_spaces

    found = _imported(spec)
    if isinstance(found, (BaseAlgorithm, BasePolicy)):
        check_policy_spaces(found, venv.observation_space, venv.action_space)
        return found
    if isinstance(found, type):
        raise ConfigError(
            f"a function, or an object, at {spec}", f"the class {found.__name__}", "make one of it in the module"
        )
    if callable(getattr(found, "predict", None)):
        return FunctionExpert(_predicting(found, spec), spec, venv.action_space, _is_person(found))
    if not callable(found):
        raise ConfigError(
            f"a function of the observations, or an object with predict, at {spec}",
            f"{type(found).__name__}: {found!r}"[:80],
            _EXAMPLE,
        )
    if _takes(found, 1):
        return FunctionExpert(found, spec, venv.action_space, _is_person(found))
    if _takes(found, 3):  # observations, recurrent state, episode starts
        return found
    raise ConfigError(
        f"{spec} to take the observations alone, or observations, state and episode starts",
        f"it has the parameters {inspect.signature(found)}",
        _EXAMPLE,
    )


class FunctionExpert:
    """A user's function, each of its answers checked.

    Args:
        function: from a batch of observations, shape (env, *obs), to actions of shape (env, *act).
        spec: what it was named by.
        action_space: of the environment.
        asks_a_person: whether asking it again costs somebody's time.
    """

    def __init__(
        self, function: Callable[[Any], Any], spec: str, action_space: Any, asks_a_person: bool = False
    ) -> None:
        self._function = function
        self._spec = spec
        self._space = action_space
        self.asks_a_person = asks_a_person

    def __call__(self, obs: Any) -> np.ndarray:
        """Its actions, in the space's own type.

        Raises:
            DataError: another shape, or no actions of the space.
        """
        from understudy.algorithms._dagger_expert import checked_actions
        from understudy.errors import DataError

        n = len(next(iter(obs.values()))) if isinstance(obs, Mapping) else len(obs)
        try:
            return checked_actions(np.asarray(self._function(obs)), self._space, n)
        except DataError as error:
            raise type(error)(f"{error.expected}, {self._spec}", error.got, error.do) from error


def _is_person(found: Any) -> bool:
    return bool(getattr(found, "asks_a_person", False))


def _predicting(found: Any, spec: str) -> Callable[[Any], Any]:
    """Its most likely actions, without what else ``predict`` may return."""
    predict = found.predict
    if not _takes(predict, 1):
        raise ConfigError(
            f"{spec} with a predict that takes the observations alone",
            f"it has the parameters {inspect.signature(predict)}",
            "wrap it in a function: def act(obs): return model.predict(obs, my_option)",
        )
    options = {}
    with contextlib.suppress(TypeError, ValueError):
        if "deterministic" in inspect.signature(predict).parameters:
            options = {"deterministic": True}

    def act(obs: Any) -> Any:
        answer = predict(obs, **options)
        return answer[0] if isinstance(answer, tuple) else answer

    return act


def _takes(function: Callable[..., Any], n: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * n)
    except ValueError:  # a builtin, which does not say
        return n == 1
    except TypeError:
        return False
    return True


def _imported(spec: str) -> Any:
    name, _, path = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does, and for good: the function may import more when it is called
    importlib.invalidate_caches()
    with _told(spec, name):
        found: Any = importlib.import_module(name)
    for part in path.split("."):
        if not hasattr(found, part):
            known = [each for each in dir(found) if not each.startswith("_")]
            close = difflib.get_close_matches(part, known, n=1)
            raise ConfigError(
                f"{part!r} in {name}, for {spec}",
                f"no such name in {getattr(found, '__file__', None) or name}",
                f"did you mean {close[0]}?" if close else _EXAMPLE,
            )
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def _told(spec: str, name: str) -> Iterator[None]:
    """What goes wrong while a module is imported, in three parts."""
    try:
        yield
    except ModuleNotFoundError as error:
        if name.endswith(".py"):
            raise ConfigError(
                f"a module for {spec}, as `import` names it", name, f"write {spec.replace('.py:', ':', 1)}"
            ) from error
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"a module {name!r} that can be imported from {Path.cwd()}, for {spec}",
                f"no module named {error.name!r}",
                f"start in the folder that holds {name.split('.')[0]}.py, or install it",
            ) from error
        raise _broken(spec, name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(spec, name, error) from error


def _broken(spec: str, name: str, error: BaseException) -> ConfigError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = error.lineno if isinstance(error, SyntaxError) else last.lineno
    file = error.filename if isinstance(error, SyntaxError) else last.filename
    return ConfigError(
        f"the module {name!r} to be importable, for {spec}",
        f"{type(error).__name__}: {error} ({file}, line {at})",
        f"try it alone: python -c 'import {name}'",
    )
