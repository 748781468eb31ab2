"""Chunks: masked sums, and temporal ensembling worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.functional import chunks

approx = pytest.approx


def test_unknown_steps_count_nothing() -> None:
    """Whatever stands there: also a NaN."""
    log_prob = torch.tensor([[-1.0, -2.0, math.nan], [-3.0, -4.0, -5.0]])
    known = torch.tensor([[True, True, False], [True, False, False]])
    terms = chunks.chunk_terms(log_prob, torch.ones(2, 3), known)
    assert terms.log_prob.tolist() == [-3.0, -3.0]
    assert terms.entropy.tolist() == [2.0, 1.0]


def test_each_step_has_a_deviation_of_its_own() -> None:
    """Deviations 1 and e: at the mean log φ is −½ log 2π less log σ."""
    terms = chunks.gaussian_steps(torch.zeros(1, 2, 1), torch.tensor([[1.0], [math.e]]), torch.zeros(1, 2, 1))
    half = 0.5 * math.log(2 * math.pi)
    assert terms.log_prob.tolist()[0] == approx([-half, -half - 1])
    assert terms.entropy.tolist()[0] == approx([half + 0.5, half + 1.5])


def test_the_oldest_prediction_weighs_most() -> None:
    """m = log 2: weights 1, ½, ¼ from the oldest on; (1·7 + ½·0 + ¼·14) / (7/4) = 6."""
    predictions = torch.tensor([[7.0], [0.0], [14.0]])
    assert chunks.temporal_ensemble(predictions, math.log(2)).item() == approx(6.0)
    assert chunks.temporal_ensemble(predictions, 0.0).item() == approx(7.0)
    assert chunks.temporal_ensemble(predictions[:1], math.log(2)).item() == 7.0


def test_three_steps_of_chunks_of_two_by_hand() -> None:
    """m = log 2. Chunks (0, 3), (6, 9), (12, 15): actions 0; (3 + ½·6)/1.5 = 4; (9 + ½·12)/1.5 = 10."""
    total, count = torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.int64)
    acts = []
    for chunk in ([0.0, 3.0], [6.0, 9.0], [12.0, 15.0]):
        total, count = chunks.join_chunk(total, count, torch.tensor(chunk)[None, :, None], math.log(2))
        acts.append(chunks.joined(total, count, math.log(2)).item())
        total, count = chunks.advance(total, count)
    assert acts == approx([0.0, 4.0, 10.0])
    assert count.tolist() == [[1, 0]]


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.sampled_from([0.0, 0.01, 1.0]))
def test_k_sums_are_all_the_memory_there_is(seed: int, k: int, decay: float) -> None:
    """Online as all chunks kept: at step t the chunks of steps t−k+1 … t are averaged, the oldest first."""
    g = torch.Generator().manual_seed(seed)
    predicted = torch.randn(9, k, 3, generator=g, dtype=torch.float64)
    total, count = torch.zeros(1, k, 3, dtype=torch.float64), torch.zeros(1, k, dtype=torch.int64)
    for t in range(9):
        total, count = chunks.join_chunk(total, count, predicted[t : t + 1], decay)
        foreseen = torch.stack([predicted[s, t - s] for s in range(max(0, t - k + 1), t + 1)])
        torch.testing.assert_close(chunks.joined(total, count, decay)[0], chunks.temporal_ensemble(foreseen, decay))
        total, count = chunks.advance(total, count)
