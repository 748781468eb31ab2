"""One import for the helpers that live in files of their own; each is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.policies.serialize import save_policy as save_policy
    from understudy.util.console import clear_screen as clear_screen
    from understudy.util.docstrings import docstring_parameter as docstring_parameter
    from understudy.util.integers import oric as oric
    from understudy.util.integers import split_in_half as split_in_half
    from understudy.util.iteration import endless_iter as endless_iter
    from understudy.util.iteration import get_first_iter_element as get_first_iter_element
    from understudy.util.paths import AnyPath as AnyPath
    from understudy.util.paths import make_unique_timestamp as make_unique_timestamp
    from understudy.util.paths import parse_optional_path as parse_optional_path
    from understudy.util.paths import parse_path as parse_path
    from understudy.util.seeding import make_seeds as make_seeds
    from understudy.util.tensors import safe_to_numpy as safe_to_numpy
    from understudy.util.tensors import safe_to_tensor as safe_to_tensor
    from understudy.util.tensors import tensor_iter_norm as tensor_iter_norm
    from understudy.util.vec_env import make_vec_env as make_vec_env

_HOME = {
    "AnyPath": "understudy.util.paths",
    "clear_screen": "understudy.util.console",
    "docstring_parameter": "understudy.util.docstrings",
    "endless_iter": "understudy.util.iteration",
    "get_first_iter_element": "understudy.util.iteration",
    "make_seeds": "understudy.util.seeding",
    "make_unique_timestamp": "understudy.util.paths",
    "make_vec_env": "understudy.util.vec_env",
    "oric": "understudy.util.integers",
    "parse_optional_path": "understudy.util.paths",
    "parse_path": "understudy.util.paths",
    "safe_to_numpy": "understudy.util.tensors",
    "safe_to_tensor": "understudy.util.tensors",
    "save_policy": "understudy.policies.serialize",
    "split_in_half": "understudy.util.integers",
    "tensor_iter_norm": "understudy.util.tensors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
