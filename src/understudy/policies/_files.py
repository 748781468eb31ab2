"""One policy, one sealed safetensors file: its tensors, and its spec (`_spec`) as the document beside them.

The document also names the tensors that share memory (``aliases``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy

from understudy.errors import ConfigError, CorruptFileError, UntrustedFileError
from understudy.policies._spec import policy_from_spec, policy_to_spec
from understudy.util.build_budget import AllocationBudget, check_space_size
from understudy.util.module_tensors import fill, unique_tensors
from understudy.util.paths import AnyPath, parse_path
from understudy.util.sealed import read_sealed, write_sealed


def write_policy(policy: BasePolicy, path: AnyPath, extra: Mapping[str, Any] | None = None) -> None:
    """Write the file atomically; ``extra`` (plain values) is kept beside the spec.

    Raises:
        ConfigError: the policy cannot be built again from what its attributes say of it.
    """
    tensors, aliases = unique_tensors(policy)
    spec = policy_to_spec(policy)
    _check_spec(policy, spec)
    write_sealed(path, {**spec, "aliases": aliases, "extra": dict(extra or {})}, tensors)


def read_policy(
    path: AnyPath, device: torch.device | str = "cpu", custom_objects: Mapping[str, Any] | None = None
) -> tuple[BasePolicy, dict[str, Any]]:
    """The policy, in evaluation mode, and what was written beside it.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated, altered, or not a policy of this library; also one whose spec asks for more than
            its tensors could fill, which is found before anything of that size is made.
        UntrustedFileError: a pickle.
        ConfigError: a name that ``custom_objects`` has to supply.
    """
    file = parse_path(path)
    try:
        document, tensors = read_sealed(file)
        parts = [document[part] for part in ("observation_space", "action_space", "parameters")]
        check_space_size(parts, tensors.values())
        with torch.random.fork_rng(devices=[]), AllocationBudget(tensors.values()):
            policy = policy_from_spec(document, custom_objects)
        fill(policy, {**tensors, **{name: tensors[source] for name, source in document["aliases"].items()}})
        extra = dict(document["extra"])
    except CorruptFileError as err:
        raise CorruptFileError(f"{err.expected} in {file}", err.got, err.do) from err
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, MemoryError) as err:
        if isinstance(err, ConfigError | UntrustedFileError):
            raise
        raise CorruptFileError(
            f"a policy file of this library at {file}",
            f"{type(err).__name__}: {' '.join(str(err).split())[:400]}",
            "restore the file from a copy, or save the policy again",
        ) from err
    policy.to(device)
    policy.set_training_mode(False)
    return policy, extra


def _check_spec(policy: BasePolicy, spec: Mapping[str, Any]) -> None:
    """Build the policy from its spec and compare the tensors' names and shapes."""
    architecture = {key: spec[key] for key in ("format", "policy", "observation_space", "action_space", "parameters")}
    try:
        again = _shapes(json.dumps({**architecture, "learning_rate": 1e-3, "versions": {}}))
    except CorruptFileError as err:
        raise _not_described(policy, err.got) from err
    except ConfigError:
        return  # of a class that only the caller knows
    own = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    for name in {**own, **again}:
        if own.get(name) != again.get(name):
            raise _not_described(policy, f"{name}: {own.get(name)}, but {again.get(name)} when built again")


@functools.lru_cache(maxsize=16)
def _shapes(spec: str) -> Mapping[str, tuple[int, ...]]:
    """By name, of a policy built from that JSON; remembered, since a run that saves often saves the same network."""
    with torch.random.fork_rng(devices=[]):
        policy = policy_from_spec(json.loads(spec), None)
    return MappingProxyType({name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()})


def _not_described(policy: BasePolicy, got: str) -> ConfigError:
    return ConfigError(
        f"a {type(policy).__name__} that its constructor's arguments describe",
        got,
        "give a class of your own to a policy whose networks were changed after it was made; it is kept by name then",
    )
