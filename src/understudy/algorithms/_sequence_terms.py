"""What sb3-contrib's recurrent policies say of sequences: what they would, stepped through the same observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import Tensor

from understudy.data.batches import Batch, ObsTensor
from understudy.data.sequences import SequenceBatch, padded, step_mask
from understudy.functional.cloning import HeadTerms
from understudy.policies.heads import actor_features, distribution_terms, head_of

_Features = Callable[[ObsTensor], Tensor]


def recurrent_terms(policy: Any, batch: Batch) -> HeadTerms:
    """Log-likelihood and entropy of each step learned from, each of shape (step,); the critic is left out."""
    assert isinstance(batch, SequenceBatch)
    latent = _remembered(policy, policy.lstm_actor, lambda obs: actor_features(policy, obs), batch)
    latent = policy.mlp_extractor.forward_actor(latent)
    plain = type(policy)._get_action_dist_from_latent is ActorCriticPolicy._get_action_dist_from_latent
    head = head_of(policy) if plain else None
    if head is not None:
        return head.terms(policy.action_net(latent), batch.acts)
    return distribution_terms(policy, policy._get_action_dist_from_latent(latent), batch.acts)


def recurrent_values(policy: Any, batch: Batch) -> Tensor:
    """The critic's value of each step learned from, shape (step,)."""
    assert isinstance(batch, SequenceBatch)

    def features(obs: ObsTensor) -> Tensor:
        found: Tensor = BasePolicy.extract_features(policy, obs, policy.vf_features_extractor)
        return found

    if policy.lstm_critic is not None:
        latent = _remembered(policy, policy.lstm_critic, features, batch)
    elif policy.shared_lstm:
        latent = _remembered(policy, policy.lstm_actor, features, batch).detach()
    else:
        latent = policy.critic(_chosen(features(batch.obs), batch))
    values: Tensor = policy.value_net(policy.mlp_extractor.forward_critic(latent))
    return values.flatten()


def _remembered(policy: Any, lstm: Any, features: _Features, batch: SequenceBatch) -> Tensor:
    """Outputs of an LSTM for the steps learned from; rows in, rows out, padding in between only."""
    state = _after_burn_in(policy, lstm, features, batch)
    rows: Tensor = features(batch.obs)
    mask = step_mask(batch.lengths, rows.device)
    whole = bool(mask.all())
    laid = (rows if whole else padded(rows, mask)).reshape(-1, rows.shape[-1])
    outputs, _ = policy._process_sequence(laid, state, rows.new_zeros(len(laid)), lstm)
    return _chosen(outputs if whole else outputs[mask.flatten()], batch)


def _after_burn_in(policy: Any, lstm: Any, features: _Features, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """The states that sequences begin with, each of shape (layer, sequence, hidden): constants for the gradient.

    Sequences with the same number of steps before them are run together, so that nothing is padded.
    """
    weight = lstm.weight_ih_l0
    shape = (lstm.num_layers, len(batch.lengths), lstm.hidden_size)
    hidden, cell = weight.new_zeros(shape), weight.new_zeros(shape)
    if batch.burn_in_obs is None:
        return hidden, cell
    with torch.no_grad():
        rows = features(batch.burn_in_obs).split(list(batch.burn_in))
        for length in sorted(set(batch.burn_in) - {0}):
            group = [i for i, n in enumerate(batch.burn_in) if n == length]
            laid = torch.cat([rows[i] for i in group])
            zeros = weight.new_zeros(lstm.num_layers, len(group), lstm.hidden_size)
            _, state = policy._process_sequence(laid, (zeros, zeros), laid.new_zeros(len(laid)), lstm)
            hidden[:, group], cell[:, group] = state
    return hidden, cell


def _chosen(rows: Tensor, batch: SequenceBatch) -> Tensor:
    return rows if batch.learned is None else rows[batch.learned]
