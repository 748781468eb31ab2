"""The data doctor's checks of repetition: episodes and steps that occur twice, actions that contradict each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from understudy.data._dataset import Demonstrations
from understudy.data._findings import Finding, found, numbered, place, places

_WIDE = 512  # bytes of a row; hashing wider ones one by one costs less than mixing their bytes in NumPy
_CHUNK = 1 << 21  # bytes mixed together; the products take eight times as much


def findings(demos: Demonstrations, obs: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Copied episodes, then what else is repeated outside of them: nothing is told twice."""
    if any(array.dtype.hasobject for array in (*obs.values(), demos.acts)):
        return
    seen, acted = _keys(list(obs.values())), _keys([demos.acts])
    copies = _copied_episodes(demos, seen, acted)
    if copies:
        pairs = ", ".join(f"episode {copy} of episode {first}" for copy, first in list(copies.items())[:5])
        more = f" and {len(copies) - 5} more" if len(copies) > 5 else ""
        yield found(
            "warning",
            "duplicate-episodes",
            f"{len(copies)} of {demos.n_episodes} episodes are exact copies of earlier ones: {pairs}{more}",
            f"drop {numbered('episode', list(copies))}; if a rollout gave them, its environments had the same seed",
        )
    kept = np.setdiff1d(np.arange(demos.n_episodes), list(copies))
    yield from _repeated(demos, seen, acted, demos.rows_of_episodes(kept))


def _copied_episodes(demos: Demonstrations, seen: np.ndarray, acted: np.ndarray) -> dict[int, int]:
    """For each episode that is a copy, the first that it is a copy of."""
    first: dict[bytes, int] = {}
    copies = {}
    for episode in range(demos.n_episodes):
        part = slice(demos.episode_offsets[episode], demos.episode_offsets[episode + 1])
        key = hashlib.blake2b(seen[part].tobytes() + acted[part].tobytes(), digest_size=16).digest()
        if first.setdefault(key, episode) != episode:
            copies[episode] = first[key]
    return copies


def _repeated(demos: Demonstrations, seen: np.ndarray, acted: np.ndarray, rows: np.ndarray) -> Iterator[Finding]:
    """The same observation again: with the same action a duplicate, with another a contradiction."""
    n = len(rows)
    _, first, group = np.unique(seen[rows], return_index=True, return_inverse=True)
    original = rows[first[group]]
    again = rows != original
    same = acted[rows] == acted[original]
    duplicates, contradictions = np.flatnonzero(again & same), np.flatnonzero(again & ~same)
    if len(duplicates) > 0.01 * n:
        row = duplicates[0]
        yield found(
            "warning",
            "duplicates",
            f"{len(duplicates)} of {n} steps repeat an earlier observation and action: first "
            f"{place(int(rows[row]), demos)} repeats {place(int(original[row]), demos)}",
            "keep one copy each: copies count double in training, and in a validation split they leak",
            places(rows[duplicates], demos),
        )
    if len(contradictions) > 0.01 * n:
        row = contradictions[0]
        yield found(
            "note",
            "contradictions",
            f"{len(contradictions)} of {n} steps repeat an earlier observation with another action: first "
            f"{place(int(rows[row]), demos)} contradicts {place(int(original[row]), demos)}",
            "add what the expert saw beyond this observation (history, a goal), or accept a stochastic clone",
            places(rows[contradictions], demos),
        )


def _keys(arrays: list[np.ndarray]) -> np.ndarray:
    """One 64-bit number a row, equal where all bytes of the row are, shape (row,).

    Narrow rows are mixed by random weights modulo 2⁶⁴: two rows that differ meet with a chance of about 2⁻⁵⁶.
    """
    n = len(arrays[0])
    width = sum(array[0].nbytes for array in arrays)
    if width > _WIDE:
        digests = (hashlib.blake2b(b"".join(a[i].tobytes() for a in arrays), digest_size=8).digest() for i in range(n))
        return np.frombuffer(b"".join(digests), dtype=np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**64, size=width, dtype=np.uint64) | np.uint64(1)
    keys = np.zeros(n, dtype=np.uint64)
    rows_a_chunk = max(1, _CHUNK // max(1, width))
    for start in range(0, n, rows_a_chunk):
        part = slice(start, start + rows_a_chunk)
        pieces = [np.ascontiguousarray(array[part]).reshape(len(array[part]), -1) for array in arrays]
        octets = np.concatenate([piece.view(np.uint8).reshape(len(piece), -1) for piece in pieces], axis=1)
        keys[part] = (octets * weights).sum(axis=1, dtype=np.uint64)
    return keys
