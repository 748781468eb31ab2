"""One seed in, many independent seeds out, without touching any global generator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import torch

from understudy.errors import ConfigError, CorruptFileError

_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
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


def leg_generator(seed: int, leg: int) -> np.random.Generator:
    """What everything random of one leg of a run is drawn from: ``SeedSequence([seed, leg])``."""
    return np.random.default_rng(np.random.SeedSequence([seed, leg]))


def start_generator(seed: int) -> np.random.Generator:
    """What a run in legs draws once, such as which episodes are held out."""
    return np.random.default_rng(np.random.SeedSequence([seed], spawn_key=(2,)))


def order_generator(seed: int, epoch: int) -> torch.Generator:
    """Decides the order of one pass over the data, whichever leg it begins or ends in."""
    word = np.random.SeedSequence([seed, epoch], spawn_key=(1,)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(word))


def seed_globals(rng: np.random.Generator, device: torch.device | str = "cpu") -> None:
    """Seed the global generators of Python, NumPy and torch, which other libraries read. Use in `globals_put_back`.

    Args:
        rng: moved on by three draws.
        device: a CUDA device's generator is seeded as well.
    """
    device = torch.device(device)
    python_seed, numpy_seed, torch_seed = make_seeds(rng, 3)
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002 - for environments and learners that read it
    torch.default_generator.manual_seed(torch_seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(torch_seed)


@contextmanager
def globals_put_back(device: torch.device | str = "cpu") -> Iterator[None]:
    """The global generators of Python, NumPy and torch are afterwards as they were."""
    device = torch.device(device)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Plain values and arrays from which `generator_from` makes the same generator.

    Raises:
        ConfigError: a bit generator that is not NumPy's own.
    """
    state = dict(rng.bit_generator.state)
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise ConfigError(
            expected=f"a generator of NumPy's own: {', '.join(_BIT_GENERATORS)}",
            got=str(state["bit_generator"]),
            do="pass numpy.random.default_rng(seed)",
        )
    return state


def generator_from(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator that goes on where the one of `generator_state` stood.

    Raises:
        CorruptFileError: not such a state.
    """
    try:
        if state["bit_generator"] not in _BIT_GENERATORS:
            raise ValueError(f"no generator of the name {state['bit_generator']!r}")
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = dict(state)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CorruptFileError(
            expected="the state of a NumPy generator",
            got=f"{type(err).__name__}: {str(err)[:120]}",
            do="restore the file from a copy",
        ) from err
    return np.random.Generator(bits)
