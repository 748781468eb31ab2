"""Registering, looking up, and being told what was meant."""

from __future__ import annotations

import math

import pytest

from understudy.errors import ConfigError, RegistryError
from understudy.util.registry import (
    Registry,
    build_loader_fn_require_env,
    build_loader_fn_require_space,
    load_attr,
)


def test_by_position_by_keyword_and_by_place():
    registry: Registry[object] = Registry()
    registry.register("one", 1)
    registry.register("two", value=2)
    registry.register("pi", indirect="math:pi")
    assert list(registry.keys()) == ["one", "two", "pi"]
    assert [registry.get(key) for key in registry.keys()] == [1, 2, math.pi]  # noqa: SIM118
    assert "pi" in registry
    assert "tau" not in registry


def test_a_place_is_imported_on_first_use_only():
    registry: Registry[object] = Registry()
    registry.register("later", indirect="no_such_module_at_all:x")
    with pytest.raises(ModuleNotFoundError):
        registry.get("later")


def test_errors_help():
    registry: Registry[int] = Registry()
    registry.register("random", 1)
    registry.register("zero", 2)
    with pytest.raises(RegistryError, match="did you mean 'random'"):
        registry.get("rnadom")
    with pytest.raises(KeyError, match="random, zero"):
        registry.get("something else")
    with pytest.raises(RegistryError, match="choose another name"):
        registry.register("zero", 3)
    for bad in ({}, {"value": 1, "indirect": "math:pi"}):
        with pytest.raises(ConfigError, match="exactly one"):
            registry.register("new", **bad)


def test_load_attr():
    assert load_attr("math:pi") == math.pi
    with pytest.raises(ConfigError, match="colon"):
        load_attr("math.pi")
    with pytest.raises(ConfigError, match="'nothing'"):
        load_attr("math:nothing")


def test_loader_builders(cartpole_venv):
    by_env = build_loader_fn_require_env(lambda venv, a, b: (venv, a, b), a=1)
    assert by_env(cartpole_venv, b=2) == (cartpole_venv, 1, 2)
    by_space = build_loader_fn_require_space(lambda obs, act, a, b: (obs, act, a, b), a=1)
    spaces = (cartpole_venv.observation_space, cartpole_venv.action_space)
    assert by_space(cartpole_venv, b=2) == (*spaces, 1, 2)
