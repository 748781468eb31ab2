"""Batches by index selection: data stays where it is, a batch is rows picked from it.

Rows are gathered in chunks of many batches at once and cut into views, so that a batch costs no Python per item, no
collation and no copy of its own. Images stay ``uint8`` until they are on the device. Data in a file is read as it is
needed, with memory that does not grow with the file (``_order.py`` says in which order).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from understudy.data import _order
from understudy.data._mapped import MappedDemonstrations
from understudy.data._order import RowRanges
from understudy.data._pieces import Piece, Pieces, lies_in_file
from understudy.data.demonstrations import BatchStream, Demonstrations
from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import ConfigError, EmptyDataError

ObsTensor = Tensor | dict[str, Tensor]
_CHUNK_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Rows to learn from; a chunk of several batches has the same form."""

    obs: ObsTensor
    """Shape (batch, *obs), or a dictionary of such."""

    acts: Tensor
    """Shape (batch, *act)."""

    weights: Tensor | None = None
    """Shape (batch,), or None where all weigh the same."""

    def __len__(self) -> int:
        """Number of rows."""
        return self.acts.shape[0]  # `len` of a tensor asks torch whether it is being traced

    def split(self, batch_size: int) -> Iterator[Batch]:
        """Cut into batches; the last one may be smaller. They are views."""
        with torch.no_grad():  # views of data: nothing to track, and five times cheaper to make
            acts = self.acts.split(batch_size)
            weights = [None] * len(acts) if self.weights is None else self.weights.split(batch_size)
            obs = list(_split(self.obs, batch_size))
        for views in zip(obs, acts, weights, strict=True):
            yield Batch(*views)


def _split(obs: ObsTensor, size: int) -> Iterator[ObsTensor]:
    if isinstance(obs, Tensor):
        yield from obs.split(size)
        return
    for parts in zip(*(value.split(size) for value in obs.values()), strict=True):
        yield dict(zip(obs.keys(), parts, strict=True))


class BatchSource(Protocol):
    """Where batches come from."""

    batch_size: int | None
    """Rows in a batch, or None where the source decides."""

    chunk_batches: int | None
    """Batches in a chunk; None where a pass can only be begun at its start."""

    def __len__(self) -> int:
        """Batches in an epoch; TypeError where that is not known."""

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """Chunks of one pass, each a whole number of batches but for the last, from chunk ``first_chunk`` on."""


class _Rows:
    """One array whose rows can be picked: a tensor on the device, or NumPy where it must stay as it is."""

    def __init__(self, array: np.ndarray, device: torch.device, channels_last: bool) -> None:
        self._device = device
        self._channels_last = channels_last and array.ndim == 4
        # Channels-last images seen through a channels-first view are picked as they lie in memory.
        self._turned = array.ndim == 4 and array.transpose(0, 2, 3, 1).flags.c_contiguous
        if self._turned:
            array = array.transpose(0, 2, 3, 1)
        self._native = array.dtype.newbyteorder("=")
        self._array: np.ndarray | None = None if _torch_may_share(array) else array
        self._tensor = None if self._array is not None else torch.from_numpy(array).to(device)
        self.row_bytes = array.nbytes // max(1, len(array))

    def pick(self, rows: Tensor | None) -> Tensor:
        """A copy of these rows; None for all of them, shared with the array where it can be."""
        if self._tensor is not None:
            picked = self._tensor if rows is None else self._tensor.index_select(0, rows)
        else:
            assert self._array is not None
            chosen = self._array if rows is None else self._array[rows.cpu().numpy()]
            picked = torch.from_numpy(np.ascontiguousarray(chosen, dtype=self._native)).to(self._device)
        if self._turned:
            picked = picked.permute(0, 3, 1, 2)
        # Convolutions are fastest with channels last in memory; the shape stays channels-first.
        return picked.contiguous(memory_format=torch.channels_last) if self._channels_last else picked


def _torch_may_share(array: np.ndarray) -> bool:
    """Whether a tensor can look at this memory: it can be written to, forwards, in whole steps, in native bytes.

    torch cannot pick rows of unsigned integers longer than a byte.
    """
    whole_steps = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    long_unsigned = array.dtype.kind == "u" and array.itemsize > 1
    return array.flags.writeable and whole_steps and array.dtype.isnative and not long_unsigned


class _Columns:
    """All columns of a set of transitions."""

    def __init__(self, demos: Demonstrations, device: torch.device, channels_last: bool) -> None:
        self._device = device
        self.obs = _columns(demos.frames, device, channels_last)
        self.acts = _Rows(demos.acts, device, False)
        self._weights = None if demos.weights is None else _Rows(demos.weights, device, False)
        self._obs_rows = None if demos.obs_rows is None else torch.from_numpy(demos.obs_rows)
        self.row_bytes = sum(column.row_bytes for column in self.obs.values()) + self.acts.row_bytes

    def pick(self, rows: Tensor | None) -> Batch:
        """These transitions, on the device; None for all, not copied."""
        frames = rows
        if rows is not None:
            frames = (rows if self._obs_rows is None else self._obs_rows[rows]).to(self._device)
            rows = rows.to(self._device)
        obs = {name: column.pick(frames) for name, column in self.obs.items()}
        return Batch(
            obs=obs[""] if obs.keys() == {""} else obs,
            acts=self.acts.pick(rows),
            weights=None if self._weights is None else self._weights.pick(rows),
        )


def shuffled_in_windows(demos: Demonstrations) -> bool:
    """Whether `ResidentBatches` shuffles all of these in windows, for there are many and they lie in a file."""
    return _in_pieces(demos, len(demos)) is not None and len(demos) > _order.EXACT_ROWS


class ResidentBatches:
    """Shuffled batches of demonstrations in hand, or in a file.

    Arrays in memory are moved to the device once. Demonstrations in a file (a large dataset on disk, a memory map) stay
    there; a few dozen MiB of them are read at a time. Up to 4,194,304 rows, and of any number in memory, an epoch is a
    uniform permutation, the same wherever the data lies. More rows in a file are shuffled in windows of 64 MiB made of
    blocks of 32 KiB from random places, so that neither the order of all rows nor a page a row is needed.

    Args:
        demos: the demonstrations.
        batch_size: rows in a batch; the last one of an epoch may be smaller, so that every row is seen once.
        device: where batches are wanted.
        generator: decides the order; None for the order of the data.
        rows: use these transitions only.
        channels_last: give image observations with channels last in memory (their shape stays channels-first).
        row_bytes: what a row will take once it is prepared, where that is more than it takes here; bounds the chunks.
        targets: gives what stands in place of the actions of these transitions (indices), one row each.

    Raises:
        ConfigError: ``batch_size`` < 1.
        EmptyDataError: no rows.
    """

    def __init__(
        self,
        demos: Demonstrations,
        batch_size: int,
        *,
        device: torch.device,
        generator: torch.Generator | None,
        rows: np.ndarray | RowRanges | None = None,
        channels_last: bool = False,
        row_bytes: int = 0,
        targets: Callable[[np.ndarray], Tensor] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(expected="`batch_size` ≥ 1", got=str(batch_size), do="pass a positive batch size")
        self.batch_size: int | None = batch_size
        self._batch = batch_size
        self._generator = generator
        self._device = device
        self._channels_last = channels_last
        self._rows = rows
        self._targets = targets
        self.n_rows = len(demos) if rows is None else len(rows)
        """Rows in an epoch."""
        if self.n_rows == 0:
            raise EmptyDataError(expected="at least one transition", got="none", do="check the demonstrations")
        self._pieces = _in_pieces(demos, self.n_rows)
        self._columns = None if self._pieces is not None else _Columns(demos, device, channels_last)
        self._row_bytes = (self._pieces or self._whole()).row_bytes
        row_bytes = max(row_bytes, self._row_bytes)
        self.chunk_batches: int | None = max(1, _CHUNK_BYTES // (row_bytes * batch_size))
        self._chunk = batch_size * self.chunk_batches

    def _whole(self) -> _Columns:
        assert self._columns is not None
        return self._columns

    def __len__(self) -> int:
        """Batches in an epoch, the smaller last one counted."""
        return -(-self.n_rows // self._batch)

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """Chunks of a fresh shuffle, which the generator's state at this moment decides; the first few left out."""
        rising = not isinstance(self._rows, np.ndarray)
        if self._pieces is not None and self._generator is not None and rising and self.n_rows > _order.EXACT_ROWS:
            return self._in_windows(self._pieces, self._generator, first_chunk)
        return self._exactly(first_chunk)

    def _exactly(self, first_chunk: int) -> Iterator[Batch]:
        order = None if self._generator is None else torch.randperm(self.n_rows, generator=self._generator)
        for start in range(first_chunk * self._chunk, self.n_rows, self._chunk):
            stop = min(start + self._chunk, self.n_rows)
            yield self.pick(self._rows_at(torch.arange(start, stop) if order is None else order[start:stop]))

    def _in_windows(self, pieces: Pieces, generator: torch.Generator, first_chunk: int) -> Iterator[Batch]:
        plan = _order.Windows(self.n_rows, self._row_bytes, self._chunk)
        skipped, first = divmod(first_chunk * self._chunk, plan.size)
        for window in plan.draw(generator, skipped):
            rows = self._rows_at(torch.from_numpy(window.positions)).numpy()
            columns = _Columns(pieces.gather(rows), self._device, self._channels_last)
            for shuffled in window.shuffle[first:].split(self._chunk):
                yield self._aimed(columns.pick(shuffled), rows[shuffled.numpy()])
            first = 0
            del columns  # before the next ones are made

    def _rows_at(self, positions: Tensor) -> Tensor:
        if self._rows is None:
            return positions
        if isinstance(self._rows, RowRanges):
            return torch.from_numpy(self._rows.at(positions.numpy()))
        return torch.from_numpy(self._rows[positions.numpy()])

    def pick(self, rows: Tensor) -> Batch:
        """The given transitions (indices into the demonstrations), on the device."""
        if self._pieces is None:
            return self._aimed(self._whole().pick(rows), rows)
        gathered = self._pieces.gather(rows.cpu().numpy())
        return self._aimed(_Columns(gathered, self._device, self._channels_last).pick(None), rows)

    def _aimed(self, batch: Batch, rows: Tensor | np.ndarray) -> Batch:
        """The batch with other targets than the rows' own actions, where that is wanted."""
        if self._targets is None:
            return batch
        wanted = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return dataclasses.replace(batch, acts=self._targets(wanted).to(self._device))


def _in_pieces(demos: Demonstrations, n_rows: int) -> Pieces | None:
    """How rows are gathered where they shall not be taken whole; None where they are."""
    if isinstance(demos, MappedDemonstrations):
        return demos.pieces
    if n_rows > _order.EXACT_ROWS and demos.obs_rows is None and lies_in_file(demos.frames):
        return Pieces([Piece(demos.frames, demos.acts, None, demos.weights)])
    return None


class StreamBatches:
    """Batches as a loader of the user's own yields them."""

    def __init__(self, stream: BatchStream, *, device: torch.device, channels_last: bool = False) -> None:
        self.batch_size: int | None = None
        self.chunk_batches: int | None = None
        self._stream = stream
        self._device = device
        self._channels_last = channels_last

    def __len__(self) -> int:
        """Raises TypeError: a stream does not say how long it is."""
        raise TypeError("a stream of batches has no known length")

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """One pass over the loader, always from its start.

        Raises:
            EmptyDataError: it yielded nothing.
        """
        empty = True
        for mapping in self._stream:
            empty = False
            yield self._on_device(mapping)
        if empty:
            raise EmptyDataError(
                expected="a loader that yields batches each time it is iterated",
                got="no batch in this epoch",
                do="pass a DataLoader or a list of batches, not an iterator that is used up after one pass",
            )

    def _on_device(self, mapping: Mapping[str, Any]) -> Batch:
        rows = torch.arange(len(mapping["acts"]), device=self._device)
        columns = _columns(mapping["obs"], self._device, self._channels_last)
        obs = {name: column.pick(rows) for name, column in columns.items()}
        weights = mapping.get("weights")
        return Batch(
            obs=obs[""] if obs.keys() == {""} else obs,
            acts=_Rows(mapping["acts"], self._device, False).pick(rows),
            weights=None if weights is None else _Rows(weights, self._device, False).pick(rows),
        )


def _columns(obs: Observation, device: torch.device, channels_last: bool) -> dict[str, _Rows]:
    parts = obs.unwrap() if isinstance(obs, DictObs) else {"": obs}
    return {name: _Rows(array, device, channels_last) for name, array in parts.items()}
