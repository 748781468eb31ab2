"""One seed in, many independent seeds out, without touching any global generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import overload

import numpy as np
import torch

_SEED_BOUND = (1 << 31) - 1  # Gymnasium, SB3 and torch all accept seeds below this


@overload
def make_seeds(rng: np.random.Generator) -> int: ...


@overload
def make_seeds(rng: np.random.Generator, n: int) -> Sequence[int]: ...


def make_seeds(rng: np.random.Generator, n: int | None = None) -> Sequence[int] | int:
    """Draw seeds in ``[0, 2**31 - 1)``.

    Args:
        rng: moved on by one draw per seed.
        n: how many; ``None`` gives one plain integer instead of a list.
    """
    if n is None:
        return int(rng.integers(0, _SEED_BOUND))
    return [int(seed) for seed in rng.integers(0, _SEED_BOUND, (n,))]


@contextmanager
def torch_seeded(rng: np.random.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """Code inside that reads torch's global generator draws from ``rng``; the caller's generator is put back.

    Args:
        rng: moved on by one draw.
        device: a CUDA device's generator is seeded and put back as well.
    """
    device = torch.device(device)
    seed = make_seeds(rng)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would reseed every GPU
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator on the CPU, seeded from ``rng`` (moved on by one draw)."""
    return torch.Generator().manual_seed(make_seeds(rng))
