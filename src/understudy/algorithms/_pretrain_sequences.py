"""Whole episodes as batches, for policies with memory: the state is zero where an episode begins, as in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.batches import Batch, ResidentBatches
from understudy.data.demonstrations import Demonstrations
from understudy.functional.cloning import HeadTerms


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeBatch(Batch):
    """Rows of whole episodes, one after the other; ``lengths`` has shape (episode,) and sums to the rows."""

    lengths: tuple[int, ...] = ()


class EpisodeBatches:
    """Shuffled batches of whole episodes: as many as it takes to reach ``batch_size`` rows.

    Args:
        demos: the demonstrations.
        batch_size: rows to reach; an episode is never cut.
        device: where batches are wanted.
        generator: decides the order; None for the order of the data.
        episodes: use these only, indices.
    """

    def __init__(
        self,
        demos: Demonstrations,
        batch_size: int,
        *,
        device: torch.device,
        generator: torch.Generator | None,
        episodes: np.ndarray,
    ) -> None:
        self.batch_size: int | None = None
        self.chunk_batches: int | None = 1
        self._rows = ResidentBatches(demos, batch_size, device=device, generator=None)
        self._target = batch_size
        self._demos = demos
        self._episodes = episodes
        self._generator = generator
        self.n_rows = int(demos.episode_lengths[episodes].sum())
        """Rows in an epoch."""

    def __len__(self) -> int:
        """Raises TypeError: how many batches a pass has depends on its order."""
        raise TypeError("the number of batches in a pass depends on the order of the episodes")

    def epoch(self, first_chunk: int = 0) -> Iterator[Batch]:
        """Batches of a fresh shuffle of the episodes."""
        n = len(self._episodes)
        order = np.arange(n) if self._generator is None else torch.randperm(n, generator=self._generator).numpy()
        chosen: list[int] = []
        rows = 0
        batches: list[list[int]] = []
        for episode in self._episodes[order]:
            chosen.append(int(episode))
            rows += int(self._demos.episode_lengths[episode])
            if rows >= self._target:
                batches.append(chosen)
                chosen, rows = [], 0
        if chosen:
            batches.append(chosen)
        for episodes in batches[first_chunk:]:
            yield self._pick(episodes)

    def _pick(self, episodes: list[int]) -> Batch:
        picked = self._rows.pick(torch.from_numpy(self._demos.rows_of_episodes(np.asarray(episodes))))
        lengths = tuple(int(self._demos.episode_lengths[e]) for e in episodes)
        return EpisodeBatch(picked.obs, picked.acts, picked.weights, lengths)


def recurrent_terms(policy: Any, batch: Batch) -> HeadTerms:
    """Log-likelihood and entropy of each row under sb3-contrib's recurrent policy, the critic left out."""
    assert isinstance(batch, EpisodeBatch)
    features = policy.extract_features(batch.obs, policy.pi_features_extractor)
    latent = policy.mlp_extractor.forward_actor(_remembered(policy, policy.lstm_actor, features, batch.lengths))
    distribution = policy._get_action_dist_from_latent(latent)
    log_prob = distribution.log_prob(batch.acts)
    entropy = distribution.entropy()
    return HeadTerms(log_prob, -log_prob if entropy is None else entropy)


def recurrent_values(policy: Any, batch: Batch) -> Tensor:
    """The critic's value of each row, shape (batch,)."""
    assert isinstance(batch, EpisodeBatch)
    features = policy.extract_features(batch.obs, policy.vf_features_extractor)
    if policy.lstm_critic is not None:
        latent = _remembered(policy, policy.lstm_critic, features, batch.lengths)
    elif policy.shared_lstm:
        latent = _remembered(policy, policy.lstm_actor, features, batch.lengths).detach()
    else:
        latent = policy.critic(features)
    values: Tensor = policy.value_net(policy.mlp_extractor.forward_critic(latent))
    return values.flatten()


def _remembered(policy: Any, lstm: torch.nn.LSTM, features: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Outputs of an LSTM that starts each episode from zero; rows in, rows out, padding in between only."""
    longest = max(lengths)
    steps = torch.arange(longest, device=features.device)
    real = (steps[None] < torch.tensor(lengths, device=features.device)[:, None]).flatten()
    padded = features.new_zeros(len(lengths) * longest, features.shape[-1])
    padded[real] = features
    zeros = features.new_zeros(lstm.num_layers, len(lengths), lstm.hidden_size)
    starts = features.new_zeros(len(padded))  # every sequence begins an episode, with the zero state given
    outputs, _ = policy._process_sequence(padded, (zeros, zeros), starts, lstm)
    return outputs[real]  # type: ignore[no-any-return]
