"""Losses of single elements and their aggregation, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from understudy.functional.cloning_nests import (
    aggregate,
    bits_error,
    choice_error,
    choices_error,
    clip_each,
    clip_together,
    explores,
    no_nan_product,
    surprise,
    values_error,
)

INF, NAN = math.inf, math.nan


def test_two_equal_options_cost_log_two_whatever_the_start() -> None:
    loss = choice_error(torch.zeros(2, 2), tensor([5, 6]), start=5)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)


def test_a_choice_with_logits_log3_and_0_costs_its_surprise() -> None:
    logits = tensor([[[math.log(3.0), 0.0]] * 2])  # (batch 1, time 2): probabilities 3/4 and 1/4
    loss = choice_error(logits, tensor([[0, 1]]))
    assert loss.shape == (1, 2)
    assert loss[0].tolist() == pytest.approx([math.log(4 / 3), math.log(4)])


def test_several_choices_add_up_each_with_its_own_start() -> None:
    logits = tensor([[math.log(3.0), 0.0, 0.0, 0.0, 0.0]])
    loss = choices_error(logits, tensor([[1, 12]]), starts=[1, 10], sizes=[2, 3])
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(3))


def test_bits_add_up() -> None:
    loss = bits_error(tensor([[math.log(3.0), 0.0]]), tensor([[1.0, 1.0]]))
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(2))


def test_squared_error_is_a_mean_over_the_action_and_keeps_scalars() -> None:
    assert values_error(tensor([[1.0, 3.0]]), tensor([[0.0, 0.0]]), 1).tolist() == [5.0]
    assert values_error(tensor([1.0, 3.0]), tensor([0.0, 0.0]), 1).tolist() == [1.0, 9.0]
    assert values_error(tensor([[[1.0, 3.0]]]), tensor([[[0.0, 0.0]]]), 2).tolist() == [[5.0]]


def test_surprise_sums_over_the_entries_of_an_action() -> None:
    normal = torch.distributions.Normal(torch.zeros(1, 2), torch.ones(1, 2))
    log_prob = normal.log_prob(tensor([[1.0, 2.0]]))
    assert surprise(log_prob, 1).item() == pytest.approx(math.log(2 * math.pi) + 2.5)
    assert surprise(log_prob.sum(-1), 1).item() == pytest.approx(math.log(2 * math.pi) + 2.5)


def test_zero_beats_nan_and_infinity_and_nothing_else_does() -> None:
    product = no_nan_product(tensor([NAN, INF, 2.0, NAN]), tensor([0.0, 0.0, 3.0, 1.0]))
    assert product[:3].tolist() == [0.0, 0.0, 6.0]
    assert product[3].isnan()


def test_the_mean_divides_by_the_number_of_elements_not_by_the_weights() -> None:
    losses = tensor([2.0, 4.0, 6.0, 8.0])
    assert aggregate(losses).item() == 5.0
    assert aggregate(losses, tensor(3.0)).item() == 15.0
    assert aggregate(losses, tensor([1.0, 0.0, 0.0, 0.0])).item() == 0.5


def test_weights_of_sequences_and_of_steps_spread_over_the_last_axes() -> None:
    losses = tensor([[1.0, 3.0], [5.0, NAN]])
    assert aggregate(losses, tensor([2.0, 0.0])).item() == 2.0  # (2·(1+3)/2 + 0) / 2
    assert aggregate(losses, tensor([[1.0, 1.0], [2.0, 0.0]])).item() == 3.5  # (2 + 5) / 2


def test_clipping_each_or_together() -> None:
    gradients = [tensor([3.0, 4.0]), tensor([0.0, 12.0]), tensor([0.5])]
    each = clip_each(gradients, 1.0)
    assert each[0].tolist() == pytest.approx([0.6, 0.8])
    assert each[1].tolist() == [0.0, 1.0]
    assert each[2].tolist() == [0.5]  # short ones stay
    together = clip_together(gradients[:2], 1.3)  # common norm 13
    assert torch.cat(together).tolist() == pytest.approx([0.3, 0.4, 0.0, 1.2])
    assert clip_together(gradients, 100.0)[0].tolist() == [3.0, 4.0]


def test_exploring_is_drawing_below_epsilon() -> None:
    assert explores(tensor([0.0, 0.09, 0.1, 0.99]), 0.1).tolist() == [True, True, False, False]
    assert not explores(tensor([0.0]), 0.0).any()
