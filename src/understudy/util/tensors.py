"""Between NumPy and torch, and one norm over many tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, overload

import numpy as np
import torch

from understudy.errors import ConfigError


def safe_to_tensor(array: np.ndarray | torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """A tensor of the array, sharing its memory where that is safe.

    Read-only arrays are copied: torch has no read-only tensors, and writing through one would change the array.

    Args:
        array: a tensor is passed through `torch.as_tensor`.
        kwargs: ``dtype`` and ``device``, for `torch.as_tensor`.
    """
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()
    return torch.as_tensor(array, **kwargs)


@overload
def safe_to_numpy(obj: np.ndarray | torch.Tensor, warn: bool = False) -> np.ndarray: ...


@overload
def safe_to_numpy(obj: None, warn: bool = False) -> None: ...


def safe_to_numpy(obj: np.ndarray | torch.Tensor | None, warn: bool = False) -> np.ndarray | None:
    """An array of the tensor, detached and on the CPU; arrays and ``None`` pass through.

    Args:
        obj: what to convert.
        warn: say so, as a `UserWarning`, when something had to be converted.
    """
    if obj is None or isinstance(obj, np.ndarray):
        return obj
    if warn:
        warnings.warn("converted a tensor to a NumPy array; pass an array to avoid the copy", UserWarning, stacklevel=2)
    array: np.ndarray = obj.detach().cpu().numpy()
    return array


def tensor_iter_norm(tensor_iter: Iterable[torch.Tensor], ord: int | float = 2) -> torch.Tensor:
    """The p-norm of all elements of all tensors together, as a scalar; gradients flow.

    Args:
        tensor_iter: at least one tensor, of any shapes.
        ord: any order but 0; ``inf`` and ``-inf`` work.

    Raises:
        ConfigError: order 0, which does not combine from parts.
    """
    if ord == 0:
        raise ConfigError("a norm of any order but 0", "ord=0", "count the non-zero elements instead")
    norms = [torch.linalg.vector_norm(tensor.reshape(-1), ord=ord) for tensor in tensor_iter]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms), ord=ord)
    return norm
