"""Fitting a cloning agent to demonstrations, by the one loop of everything that clones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from understudy.algorithms._cloning_agent_experience import Experience, Reader, first_part, n_elements, pick
from understudy.algorithms._cloning_agent_network import parameter_dtype
from understudy.algorithms._supervised import FitResult, Hooks, Schedule, check_budget, fit
from understudy.data.batches import Batch, BatchSource, ResidentBatches, StreamBatches
from understudy.data.demonstrations import BatchStream, as_demonstrations
from understudy.data.sequences import SequenceBatch, SequenceBatches, check_sequences, padded, step_mask
from understudy.errors import ConfigError
from understudy.util.devices import one_thread_if_small
from understudy.util.seeding import torch_generator

if TYPE_CHECKING:
    from understudy.algorithms.cloning_agent import BehavioralCloningAgent


@dataclasses.dataclass(frozen=True, slots=True)
class ExperienceBatch(Batch):
    """A batch with all that experience may have; its length is the number of elements along the first outer axis."""

    experience: Experience | None = None

    def __len__(self) -> int:
        """Rows, or sequences."""
        assert self.experience is not None
        return n_elements(self.experience)


class AgentStep:
    """How the training loop drives an agent."""

    def __init__(self, agent: BehavioralCloningAgent) -> None:
        self._agent = agent

    def prepare(self, chunk: Batch) -> Batch:
        """Nothing: the agent reads what it is given."""
        return chunk

    def train(self, batch: Batch) -> None:
        """One step of the optimiser."""
        found = batch.experience if isinstance(batch, ExperienceBatch) else None
        self._agent.train(Experience(batch.obs, batch.acts) if found is None else found, batch.weights)

    def set_learning_rate(self, value: float) -> None:
        """For all parameters."""
        assert self._agent.optimizer is not None
        for group in self._agent.optimizer.param_groups:
            group["lr"] = value

    def state(self) -> list[Tensor]:
        """Parameters, buffers and the optimiser's moments."""
        optimizer = self._agent.optimizer
        assert optimizer is not None
        moments = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
        network = self._agent.cloning_network
        floating = [t.data for t in (*network.parameters(), *network.buffers())]
        return [*floating, *moments]

    def refresh(self) -> None:
        """Nothing: no state is kept between batches."""


class SequenceExperience:
    """Shuffled batches of sequences of demonstrations, side by side.

    Args:
        source: gives them end to end.
    """

    batch_size: int | None = None
    chunk_batches: int | None = 1

    def __init__(self, source: SequenceBatches) -> None:
        self._source = source

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._source)

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """Batches of a fresh shuffle."""
        for batch in self._source.epoch(first_chunk):
            experience, weights = side_by_side(batch)
            yield ExperienceBatch(experience.obs, experience.acts, weights, experience)


def side_by_side(batch: SequenceBatch) -> tuple[Experience, Tensor | None]:
    """Sequences as experience with the axes (batch, time), and their weights of that shape.

    What follows burn-in begins in the same column.
    """
    device = batch.acts.device
    seen = step_mask(batch.lengths, device)
    learned = seen.clone()
    if batch.learned is not None:
        learned[seen] = batch.learned
    longest = max(batch.burn_in)
    columns = torch.arange(longest, device=device)
    first = longest - torch.tensor(batch.burn_in, device=device)[:, None]
    burnt = columns >= first

    def obs_of(rows: Tensor, before: Tensor | None) -> Tensor:
        laid = padded(rows, seen)
        return laid if before is None else torch.cat([padded(before, burnt), laid], 1)

    def after_burn_in(laid: Tensor) -> Tensor:
        return torch.cat([laid.new_zeros(len(laid), longest, *laid.shape[2:]), laid], 1) if longest else laid

    before = batch.burn_in_obs
    if isinstance(batch.obs, Tensor):
        obs: Any = obs_of(batch.obs, before if isinstance(before, Tensor) else None)
    else:
        obs = {key: obs_of(rows, before[key] if isinstance(before, dict) else None) for key, rows in batch.obs.items()}
    there = torch.cat([burnt, seen], 1)
    experience = Experience(
        obs,
        after_burn_in(padded(batch.acts, learned)),
        episode_start=torch.arange(there.shape[1], device=device) == first,
        padding=None if bool(there.all()) else ~there,
        burn_in=torch.cat([burnt, torch.zeros_like(seen)], 1) if longest else None,
    )
    weights = None if batch.weights is None else after_burn_in(padded(batch.weights, learned))
    return experience, weights


class ExperienceBatches:
    """Shuffled batches of experience that lies in memory."""

    def __init__(
        self, experience: Experience, weights: Tensor | None, batch_size: int, generator: torch.Generator
    ) -> None:
        if batch_size < 1:
            raise ConfigError(expected="`batch_size` ≥ 1", got=str(batch_size), do="pass a positive batch size")
        self.batch_size: int | None = None
        self.chunk_batches: int | None = 1
        self._experience = experience
        self._weights = weights
        self._size = batch_size
        self._generator = generator

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-n_elements(self._experience) // self._size)

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """Batches of a fresh shuffle."""
        order = torch.randperm(n_elements(self._experience), generator=self._generator)
        device = first_part(self._experience.acts).device
        for rows in order.split(self._size)[first_chunk:]:
            chosen = pick(self._experience, rows.to(device))
            weights = None if self._weights is None else self._weights[rows.to(self._weights.device)]
            yield ExperienceBatch(chosen.obs, chosen.acts, weights, chosen)


def fit_agent(
    agent: BehavioralCloningAgent,
    demonstrations: Any,
    *,
    n_epochs: int | None,
    n_batches: int | None,
    batch_size: int,
    sequence_length: int | None,
    burn_in: int,
    schedule: Schedule | None,
    on_epoch_end: Callable[[], None] | None,
    on_batch_end: Callable[[], None] | None,
    progress_bar: bool,
) -> FitResult:
    """See ``BehavioralCloningAgent.fit``."""
    check_budget(n_epochs, n_batches)
    agent._updater.check_ready()
    if sequence_length is not None and (agent.num_outer_dims == 1 or sequence_length < 1):
        raise ConfigError(
            expected="`sequence_length` ≥ 1, with num_outer_dims=2",
            got=f"sequence_length={sequence_length}, num_outer_dims={agent.num_outer_dims}",
            do="make the agent with num_outer_dims=2, or leave `sequence_length` out",
        )

    check_sequences(sequence_length, burn_in)
    if burn_in and sequence_length is None:
        raise ConfigError(
            expected="`sequence_length` with `burn_in`, which is for sequences that begin within an episode",
            got=f"burn_in={burn_in} for whole episodes",
            do="leave `burn_in` out, or pass sequence_length=64",
        )

    def ended(epoch: int) -> bool:
        if on_epoch_end is not None:
            on_epoch_end()
        return False

    source = _source(agent, demonstrations, batch_size, sequence_length, burn_in)
    work = batch_size * sum(p.numel() for p in agent.cloning_network.parameters())
    with one_thread_if_small(work):
        return fit(
            AgentStep(agent),
            source,
            n_epochs=n_epochs,
            n_batches=n_batches,
            hooks=Hooks(on_batch_end=on_batch_end, on_epoch_end=ended),
            schedule=schedule,
            progress_bar=progress_bar,
            description="cloning",
        )


def _source(
    agent: BehavioralCloningAgent, demonstrations: Any, batch_size: int, sequence_length: int | None, burn_in: int
) -> BatchSource:
    order = torch_generator(agent.rng)
    if not _is_plain(agent) or _is_experience(demonstrations, agent.num_outer_dims):
        return _of_experience(agent, demonstrations, batch_size, sequence_length, burn_in, order)
    found = as_demonstrations(
        demonstrations, observation_space=agent.observation_space, action_space=agent.action_space
    )
    if agent.num_outer_dims == 2:
        if isinstance(found, BatchStream):
            raise ConfigError(
                expected="trajectories, or experience with the axes (batch, time), for num_outer_dims=2",
                got="a DataLoader of rows",
                do="pass trajectories, or call train with sequences",
            )
        sequences = SequenceBatches(
            found,
            batch_size,
            sequence_length=sequence_length,
            burn_in=burn_in,
            device=agent.device,
            generator=order,
            sequences=batch_size,
        )
        return SequenceExperience(sequences)
    if isinstance(found, BatchStream):
        return StreamBatches(found, device=agent.device)
    return ResidentBatches(found, batch_size, device=agent.device, generator=order)


def _of_experience(
    agent: BehavioralCloningAgent,
    demonstrations: Any,
    batch_size: int,
    sequence_length: int | None,
    burn_in: int,
    order: torch.Generator,
) -> ExperienceBatches:
    weights = demonstrations.get("weights") if isinstance(demonstrations, Mapping) else None
    if _is_list_of_experience(demonstrations) and sequence_length is not None:
        single = dataclasses.replace(_reader(agent), n_outer=1)
        read = [single.read(episode) for episode in demonstrations]
        demonstrations = [piece for episode in read for piece in _cut(episode, sequence_length, burn_in)]
    elif sequence_length is not None:
        raise ConfigError(
            expected="a list of episodes to cut by `sequence_length`",
            got="sequences that are cut already",
            do="leave `sequence_length` out",
        )
    read_weights = None if weights is None else torch.as_tensor(np.asarray(weights), dtype=torch.float32)
    return ExperienceBatches(agent.read(demonstrations), read_weights, batch_size, order)


def _is_plain(agent: BehavioralCloningAgent) -> bool:
    """Whether spaces are such as the door of demonstrations knows."""
    plain_obs = not isinstance(agent.observation_space, spaces.Tuple)
    if isinstance(agent.observation_space, spaces.Dict):
        plain_obs = not any(isinstance(s, (spaces.Dict, spaces.Tuple)) for s in agent.observation_space.spaces.values())
    return plain_obs and not isinstance(agent.action_space, (spaces.Dict, spaces.Tuple))


def _is_experience(demonstrations: Any, n_outer: int) -> bool:
    """Whether it says something, or has axes, that the door of demonstrations does not know."""
    if isinstance(demonstrations, Mapping):
        own = {
            "boundary",
            "padding",
            "burn_in",
            "episode_start",
            "episode_starts",
            "step_type",
            "observation",
            "action",
        }
        tells_episodes = {"episode_ends", "dones", "terminated", "truncated"} & demonstrations.keys()
        return bool(own & demonstrations.keys()) or (n_outer == 2 and not tells_episodes)
    return isinstance(demonstrations, Experience) or _is_list_of_experience(demonstrations)


def _is_list_of_experience(demonstrations: Any) -> bool:
    return (
        isinstance(demonstrations, Sequence)
        and not isinstance(demonstrations, Experience)
        and len(demonstrations) > 0
        and all(isinstance(e, Experience) for e in demonstrations)
    )


def _reader(agent: BehavioralCloningAgent) -> Reader:
    dtype = parameter_dtype(agent.cloning_network)
    return Reader(agent.observation_space, agent.action_space, agent.num_outer_dims, agent.device, dtype)


def _cut(episode: Experience, length: int, burn_in: int) -> list[Experience]:
    """Pieces that begin with an empty memory, each with the burn-in before it."""
    pieces = []
    for begin in range(0, n_elements(episode), length):
        first = max(0, begin - burn_in)
        piece = pick(episode, slice(first, begin + length))
        starts = first_part(piece.acts).new_zeros(n_elements(piece), dtype=torch.bool)
        if piece.episode_start is not None:
            starts |= piece.episode_start
        burnt = torch.arange(len(starts), device=starts.device) < begin - first
        starts[0] = True
        pieces.append(piece._replace(episode_start=starts, burn_in=burnt if burn_in else None))
    return pieces
