"""In which order the rows of an epoch come.

Up to ``EXACT_ROWS`` rows, and of any number in memory, an order is one permutation: every order is as likely as any
other. Of more rows in a file, a permutation would take more memory than is allowed (eight bytes a row), and single rows
from all over the file would be read a page each. There an epoch is a sequence of *windows*: each is made of many short
runs of neighbouring rows (*blocks*) from random places, all read once, and shuffled as a whole. Which blocks meet, and
where blocks begin, is different in every epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

EXACT_ROWS = 1 << 22
"""As many rows in a file are shuffled exactly; the order takes 32 MiB then."""

WINDOW_BYTES = 64 << 20
"""Rows that are shuffled together where the shuffle is not exact; they are held in memory."""

BLOCK_BYTES = 32 << 10
"""Neighbouring rows that stay in one window."""


@dataclasses.dataclass(frozen=True)
class RowRanges:
    """Rows that come in runs, such as those of some episodes; takes memory for each run, not for each row."""

    starts: np.ndarray
    """First row of each run, int64, shape (run,)."""

    stops: np.ndarray
    """One past the last, shape (run,)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_before", np.concatenate([[0], np.cumsum(self.stops - self.starts)]))

    _before: np.ndarray = dataclasses.field(init=False, repr=False)

    def __len__(self) -> int:
        """Number of rows in all runs."""
        return int(self._before[-1])

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The rows that stand at these positions when all runs are laid end to end."""
        run = np.searchsorted(self._before, positions, side="right") - 1
        return np.asarray(positions - self._before[run] + self.starts[run])

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """All rows, written out: eight bytes each."""
        return self.at(np.arange(len(self)))


@dataclasses.dataclass(frozen=True)
class Window:
    """Positions to be read together, and in which order to show them."""

    positions: np.ndarray
    """Rising, int64, shape (row,)."""

    shuffle: Tensor
    """A permutation of ``range(len(positions))``."""


class Windows:
    """Windows of an epoch, all of one size but for the last.

    Args:
        n: rows in the epoch.
        row_bytes: bytes of one.
        multiple: the size of a window is a multiple of this.
    """

    def __init__(self, n: int, row_bytes: int, multiple: int) -> None:
        row_bytes = max(1, row_bytes)
        self._n = n
        self._block = max(1, BLOCK_BYTES // row_bytes)
        self.size = multiple * max(1, WINDOW_BYTES // (row_bytes * multiple))
        """Rows in a window."""

    def draw(self, generator: torch.Generator, first: int = 0) -> Iterator[Window]:
        """One epoch's windows but for the ``first`` few; all that is random is drawn before the first is given."""
        n, block = self._n, self._block
        # The last, shorter block always comes last; turning all rows by a random number puts it anywhere.
        places = np.append(torch.randperm(n // block, generator=generator).numpy(), n // block)
        shift, seed = torch.randint(1 << 62, (2,), generator=generator).tolist()
        for start in range(first * self.size, n, self.size):
            position = np.arange(start, min(n, start + self.size))
            rows = (places[position // block] * block + position % block + shift) % n
            rows.sort()
            own = torch.Generator().manual_seed(seed + start)
            yield Window(rows, torch.randperm(len(rows), generator=own))
