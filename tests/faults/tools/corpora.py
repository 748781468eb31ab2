"""Damaged copies of a file's bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def flips(content: bytes, n: int, rng: np.random.Generator) -> Iterator[tuple[int, bytes]]:
    """``n`` copies with one bit turned each, at different places, with the bit's number; all if there are fewer."""
    n_bits = 8 * len(content)
    for bit in rng.choice(n_bits, size=min(n, n_bits), replace=False).tolist():
        copy = bytearray(content)
        copy[bit // 8] ^= 1 << (bit % 8)
        yield bit, bytes(copy)


def truncations(content: bytes, n: int, rng: np.random.Generator) -> Iterator[tuple[int, bytes]]:
    """``n`` beginnings of different lengths, the empty one and those of one byte less among them; never the whole."""
    lengths = {0, 1, len(content) // 2, len(content) - 1} & set(range(len(content)))
    others = rng.permutation(len(content)).tolist()
    while len(lengths) < min(n, len(content)):
        lengths.add(others.pop())
    for length in sorted(lengths):
        yield length, content[:length]
