"""The tensors of a saved policy, for a policy that is there already."""

from __future__ import annotations

import torch
from stable_baselines3.common.policies import BasePolicy

from understudy.errors import CheckpointError, CorruptFileError, UnderstudyError
from understudy.util.paths import AnyPath, parse_path
from understudy.util.sealed import read_sealed


def load_weights(policy: BasePolicy, path: AnyPath) -> None:
    """Fill a policy, in place, with what `save_policy` wrote of one of the same architecture.

    Raises:
        CorruptFileError: truncated or altered.
        CheckpointError: names, shapes or types of the tensors differ; the policy is as it was.
    """
    tensors = _read(path)
    own = policy.state_dict()
    other = [
        name
        for name in sorted({*own, *tensors})
        if name not in own
        or name not in tensors
        or own[name].shape != tensors[name].shape
        or own[name].dtype != tensors[name].dtype
    ]
    if other:
        name = other[0]
        raise CheckpointError(
            expected=f"a policy with the tensors in {parse_path(path)}: {name} {_described(tensors.get(name))}",
            got=f"{name} {_described(own.get(name))}" + (f", and {len(other) - 1} more" if other[1:] else ""),
            do="make the trainer with the policy it was saved with",
        )
    policy.load_state_dict(tensors)


def _read(path: AnyPath) -> dict[str, torch.Tensor]:
    file = parse_path(path)
    try:
        document, tensors = read_sealed(file)
        return {**tensors, **{name: tensors[source] for name, source in document["aliases"].items()}}
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        if isinstance(err, UnderstudyError):
            raise
        raise CorruptFileError(
            expected=f"a policy file of this library at {file}",
            got=f"{type(err).__name__}: {' '.join(str(err).split())[:160]}",
            do="restore the file from a copy",
        ) from err


def _described(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else f"of shape {tuple(tensor.shape)}, {tensor.dtype}"
