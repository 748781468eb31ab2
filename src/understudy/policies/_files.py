"""One policy, one sealed safetensors file (`_sealed`): the tensors, and the policy's spec (`_spec`) as its document.

The document also names the tensors that share memory (``aliases``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy

from understudy.errors import ConfigError, CorruptFileError, UntrustedFileError
from understudy.policies._budget import AllocationBudget, check_space_size
from understudy.policies._sealed import read_sealed, write_sealed
from understudy.policies._spec import policy_from_spec, policy_to_spec
from understudy.util.paths import AnyPath, parse_path


def write_policy(policy: BasePolicy, path: AnyPath, extra: Mapping[str, Any] | None = None) -> None:
    """Write the file atomically; ``extra`` (plain values) is kept beside the spec."""
    tensors, aliases = _unique_tensors(policy)
    write_sealed(path, {**policy_to_spec(policy), "aliases": aliases, "extra": dict(extra or {})}, tensors)


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
        for part in ("observation_space", "action_space", "parameters"):
            check_space_size(document[part], tensors.values())
        with torch.random.fork_rng(devices=[]), AllocationBudget(tensors.values()):
            policy = policy_from_spec(document, custom_objects)
        fill(policy, {**tensors, **{name: tensors[source] for name, source in document["aliases"].items()}})
        extra = dict(document["extra"])
    except CorruptFileError as err:
        raise CorruptFileError(f"{err.expected} in {file}", err.got, err.do) from err
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, MemoryError) as err:
        if isinstance(err, ConfigError | UntrustedFileError):
            raise
        raise CorruptFileError(
            f"a policy file of this library at {file}",
            f"{type(err).__name__}: {err}",
            "restore the file from a copy, or save the policy again",
        ) from err
    policy.to(device)
    policy.set_training_mode(False)
    return policy, extra


def fill(policy: BasePolicy, state: Mapping[str, torch.Tensor]) -> None:
    """Load every tensor, none left over, in the type that they have."""
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        policy.to(dtypes.pop())  # after `.double()` or `.half()`: copying would cast silently
    policy.load_state_dict(dict(state), strict=True)


def _unique_tensors(policy: BasePolicy) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and for further names of the same one the name it is stored under."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    for name, value in policy.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                "a state_dict of tensors", f"{name} of type {type(value).__name__}", "drop the extra state"
            )
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() > 0 and identity in first_name:
            aliases[name] = first_name[identity]
            continue
        first_name[identity] = name
        tensors[name] = value.detach().cpu().contiguous().clone()
    return tensors, aliases
