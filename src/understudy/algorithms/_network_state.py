"""What a network and its optimiser keep between processes, beyond their parameters; and what has to be given again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from understudy.errors import CheckpointError, ConfigError


def optimizer_class(name: str, given: type[torch.optim.Optimizer] | None) -> type[torch.optim.Optimizer]:
    """The class of that name among torch's own; any other has to be given.

    Raises:
        ConfigError: a class that is not torch's, and none given.
    """
    if given is not None:
        if given.__name__ != name:
            raise ConfigError(
                expected=f"the optimiser that the trainer was saved with, {name}",
                got=given.__name__,
                do=f"pass optimizer_cls={name}, or make a new trainer around the policy",
            )
        return given
    found = getattr(torch.optim, name, None) if name.isidentifier() else None
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found
    raise ConfigError(
        expected="`optimizer_cls`, since the trainer was saved with one that is not torch's own",
        got=f"the name {name!r} only",
        do=f"pass optimizer_cls={name}",
    )


def compile_option(saved: bool | str, given: bool | str | None) -> bool | str:
    """Whether and how to compile; a backend comes from the file only if torch brings it.

    Raises:
        ConfigError: another backend, and none given.
    """
    if given is not None:
        return given
    if isinstance(saved, bool) or saved in ("inductor", "aot_eager", "eager"):
        return saved
    raise ConfigError(
        expected="`compile`, since the trainer was saved with a backend that is not torch's own",
        got=f"the name {str(saved)[:40]!r} only",
        do="pass compile=False, or the backend",
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on with saved moments and learning rate.

    Raises:
        CheckpointError: they belong to other parameters.
    """
    try:
        optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            expected=f"the state of a {type(optimizer).__name__} over the same parameters",
            got=str(err),
            do="make the trainer with the optimiser and policy it was saved with",
        ) from err


def passing_buffers(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a ``state_dict`` leaves out (``persistent=False``), though training may change them."""
    kept = policy.state_dict().keys()
    return {name: buffer for name, buffer in policy.named_buffers() if name not in kept}


def restore_passing_buffers(policy: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Copy them back."""
    with torch.no_grad():
        for name, buffer in passing_buffers(policy).items():
            buffer.copy_(saved[name])


def frozen_names(policy: torch.nn.Module) -> list[str]:
    """Parameters that do not learn."""
    return [name for name, p in policy.named_parameters() if not p.requires_grad]


def freeze_again(policy: torch.nn.Module, names: list[str]) -> None:
    """Let exactly these parameters not learn."""
    for name, p in policy.named_parameters():
        p.requires_grad_(name not in names)
