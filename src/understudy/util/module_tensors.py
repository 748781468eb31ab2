"""A network's tensors, out to a file and back: each once, none left over, in the type that they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from understudy.errors import ConfigError


def unique_tensors(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Copies on the CPU, by name; and for further names of the same tensor the name it stands under.

    Raises:
        ConfigError: a ``state_dict`` with something else than tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    for name, value in module.state_dict().items():
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


def fill(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load every tensor, none left over, in the type that they have."""
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module.to(dtypes.pop())  # after `.double()` or `.half()`: copying would cast silently
    module.load_state_dict(dict(state), strict=True)
