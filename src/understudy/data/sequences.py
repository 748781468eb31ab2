"""Batches of sequences cut from episodes, for whatever has memory.

An episode is cut every ``sequence_length`` steps, and each step is learned from once an epoch. A sequence that begins
in the middle of an episode may be preceded by ``burn_in`` steps that only run the memory: Kapturowski et al. (2019),
"Recurrent Experience Replay in Distributed Reinforcement Learning", https://openreview.net/forum?id=r1lyTjAqYX. Rows
are picked as `ResidentBatches` picks them, end to end; `padded` lays them side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from understudy.data.batches import Batch, ObsTensor, ResidentBatches
from understudy.data.demonstrations import BatchStream, Demonstrations
from understudy.errors import ConfigError, DataError, EmptyDataError

DEFAULT_SEQUENCE_LENGTH = 128
"""Steps of a sequence unless something else is asked for: what a rollout of RecurrentPPO gives it by default."""


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceBatch(Batch):
    """Whole sequences, one after the other. Actions and weights are those of the steps learned from."""

    lengths: tuple[int, ...] = ()
    """Steps of each sequence; they sum to the rows of ``obs``."""

    learned: Tensor | None = None
    """Which rows of ``obs`` are learned from, shape (step,), bool; None for all. The others only run the memory."""

    burn_in: tuple[int, ...] = ()
    """Steps before each sequence that only run the memory; they sum to the rows of ``burn_in_obs``."""

    burn_in_obs: ObsTensor | None = None
    """Their observations; None where no sequence has any."""

    def __len__(self) -> int:
        """Number of steps learned from."""
        return len(self.acts)

    def split(self, batch_size: int) -> Iterator[SequenceBatch]:
        """Cut between sequences, each part as soon as it has ``batch_size`` steps to learn from. They are views."""
        counts = self._learned_counts()
        first = done = 0
        for i, count in enumerate(counts):
            done += count
            if done >= batch_size or i == len(counts) - 1:
                yield self._part(first, i + 1, counts)
                first, done = i + 1, 0

    def _learned_counts(self) -> list[int]:
        if self.learned is None:
            return list(self.lengths)
        return [int(part.sum()) for part in self.learned.split(list(self.lengths))]

    def _part(self, first: int, stop: int, counts: list[int]) -> SequenceBatch:
        if (first, stop) == (0, len(counts)):
            return self
        steps, rows, burnt = (_span(sizes, first, stop) for sizes in (self.lengths, counts, self.burn_in))
        return SequenceBatch(
            _cut(self.obs, steps),
            self.acts[rows],
            None if self.weights is None else self.weights[rows],
            self.lengths[first:stop],
            None if self.learned is None else self.learned[steps],
            self.burn_in[first:stop],
            None if self.burn_in_obs is None else _cut(self.burn_in_obs, burnt),
        )


def _span(sizes: Sequence[int], first: int, stop: int) -> slice:
    begin = sum(sizes[:first])
    return slice(begin, begin + sum(sizes[first:stop]))


def _cut(obs: ObsTensor, rows: slice) -> ObsTensor:
    return obs[rows] if isinstance(obs, Tensor) else {key: value[rows] for key, value in obs.items()}


def check_sequences(sequence_length: int | None, burn_in: int) -> None:
    """Raise ConfigError unless sequences have a step to learn from."""
    if sequence_length is not None and sequence_length < 1:
        raise ConfigError(expected="`sequence_length` ≥ 1", got=str(sequence_length), do="pass 64, or None")
    if burn_in < 0:
        raise ConfigError(expected="`burn_in` ≥ 0", got=str(burn_in), do="pass 0 for none")


def check_episodes_known(demos: Demonstrations | BatchStream) -> None:
    """Raise DataError unless the data says where memory begins anew."""
    if isinstance(demos, BatchStream) or not demos.episodes_known:
        raise DataError(
            expected="demonstrations that say where episodes begin, for a policy with memory",
            got="a DataLoader of rows" if isinstance(demos, BatchStream) else "rows that do not",
            do="pass trajectories, or arrays with `episode_ends` (or `dones` and `truncated`)",
        )


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Where sequences lie in the demonstrations, each array int64 of shape (sequence,)."""

    starts: np.ndarray
    """First row that may be learned from."""

    stops: np.ndarray
    """One past the last."""

    burn_in: np.ndarray
    """Rows before ``starts``, of the same episode, that only run the memory."""

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.starts)

    def of(self, chosen: np.ndarray) -> Cuts:
        """Some of them."""
        return Cuts(self.starts[chosen], self.stops[chosen], self.burn_in[chosen])


def cut_episodes(demos: Demonstrations, episodes: np.ndarray, sequence_length: int | None, burn_in: int) -> Cuts:
    """Cut episodes every ``sequence_length`` steps (None: never), in the order given."""
    begins, ends = demos.episode_offsets[episodes], demos.episode_offsets[episodes + 1]
    lengths = ends - begins
    size = int(lengths.max(initial=1)) if sequence_length is None else sequence_length
    counts = -(-lengths // size)
    nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)  # within its episode
    before = nth * size
    starts = np.repeat(begins, counts) + before
    return Cuts(starts, np.minimum(starts + size, np.repeat(ends, counts)), np.minimum(before, burn_in))


class SequenceBatches:
    """Shuffled batches of sequences cut from demonstrations in hand, or in a file.

    Steps of weight zero are seen and not learned from: they run the memory, and count in no mean.

    Args:
        demos: the demonstrations; their episodes must be known.
        batch_size: steps to learn from in a batch, about: as many sequences as have so many on average, at least one.
        sequence_length: steps of a sequence, at most; None never cuts an episode.
        burn_in: steps before a sequence that only run the memory, at most.
        device: where batches are wanted.
        generator: decides the order of the sequences; None for the order of the data.
        episodes: use these only, indices.
        channels_last: as for `ResidentBatches`.
        sequences: in a batch, in place of what ``batch_size`` says.

    Raises:
        ConfigError: sizes below what makes sense.
        DataError: the data does not say where episodes begin.
        EmptyDataError: nothing to learn from.
    """

    def __init__(
        self,
        demos: Demonstrations,
        batch_size: int,
        *,
        sequence_length: int | None,
        burn_in: int = 0,
        device: torch.device,
        generator: torch.Generator | None,
        episodes: np.ndarray | None = None,
        channels_last: bool = False,
        sequences: int | None = None,
    ) -> None:
        check_sequences(sequence_length, burn_in)
        check_episodes_known(demos)
        self.batch_size: int | None = None
        self.chunk_batches: int | None = 1
        self._generator = generator
        self._device = device
        self._rows = ResidentBatches(demos, batch_size, device=device, generator=None, channels_last=channels_last)
        episodes = np.arange(demos.n_episodes) if episodes is None else episodes
        cuts = cut_episodes(demos, episodes, sequence_length, burn_in)
        counts = cuts.stops - cuts.starts
        self._learned: np.ndarray | None = None
        if demos.weights is not None and not np.all(demos.weights):
            self._learned = np.asarray(demos.weights) > 0
            before = np.concatenate([[0], np.cumsum(self._learned)])
            counts = before[cuts.stops] - before[cuts.starts]
            cuts, counts = cuts.of(counts > 0), counts[counts > 0]
        if not len(cuts):
            raise EmptyDataError(expected="at least one step to learn from", got="none", do="check the demonstrations")
        self._cuts = cuts
        self.n_rows = int(counts.sum())
        """Steps learned from in an epoch."""
        self.sequences_per_batch = sequences or max(1, round(batch_size * len(cuts) / self.n_rows))
        """Sequences in a batch; the last one of an epoch may have fewer."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._cuts) // self.sequences_per_batch)

    def epoch(self, first_chunk: int = 0) -> Iterator[SequenceBatch]:
        """Batches of a fresh shuffle, which the generator's state at this moment decides; the first few left out."""
        n = len(self._cuts)
        order = np.arange(n) if self._generator is None else torch.randperm(n, generator=self._generator).numpy()
        for first in range(first_chunk * self.sequences_per_batch, n, self.sequences_per_batch):
            yield self._pick(self._cuts.of(order[first : first + self.sequences_per_batch]))

    def _pick(self, cuts: Cuts) -> SequenceBatch:
        rows = _rows(cuts.starts, cuts.stops)
        picked = self._rows.pick(torch.from_numpy(rows))
        acts, weights, learned = picked.acts, picked.weights, None
        if self._learned is not None:
            chosen = self._learned[rows]
            if not chosen.all():
                learned = torch.from_numpy(chosen).to(self._device)
                acts, weights = acts[learned], None if weights is None else weights[learned]
        burnt = None
        if cuts.burn_in.any():
            burnt = self._rows.pick(torch.from_numpy(_rows(cuts.starts - cuts.burn_in, cuts.starts))).obs
        lengths = tuple((cuts.stops - cuts.starts).tolist())
        return SequenceBatch(picked.obs, acts, weights, lengths, learned, tuple(cuts.burn_in.tolist()), burnt)


def _rows(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All rows of some ranges, one range after the other, int64."""
    lengths = stops - starts
    return np.asarray(np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths))


def step_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where sequences that are laid side by side have a step, shape (sequence, time), bool."""
    longest = max(lengths)
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]


def padded(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows that lie end to end, laid side by side, with zeros where there is no step.

    Args:
        rows: shape (step, *value).
        mask: True where a step is, shape (sequence, time), with as many True as there are rows.

    Returns:
        Shape (sequence, time, *value).
    """
    filled = rows.new_zeros(*mask.shape, *rows.shape[1:])
    filled[mask] = rows
    return filled
