"""Discriminator equations against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from understudy.functional import adversarial as adv

LOGITS = st.floats(-30, 30, allow_nan=False)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_discriminator_that_knows_nothing_loses_two_log_two() -> None:
    assert adv.discriminator_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(2 * math.log(2))


def test_the_loss_by_hand() -> None:
    # D(expert) = 3/4 and D(learner) = 1/5: −log(3/4) − log(4/5)
    loss = adv.discriminator_loss(tensor(math.log(3)), tensor(-math.log(4)))
    assert loss.item() == pytest.approx(math.log(4 / 3) + math.log(5 / 4))


def test_the_two_batches_weigh_the_same_however_long() -> None:
    one, many = tensor(1.0), tensor(-2.0)
    assert adv.discriminator_loss(one.repeat(7), many) == pytest.approx(adv.discriminator_loss(one, many))


def test_the_entropy_bonus_by_hand() -> None:
    # H(3/4) = log 4 − (3/4) log 3 and H(1/2) = log 2
    entropy = (math.log(4) - 0.75 * math.log(3) + math.log(2)) / 2
    plain = adv.discriminator_loss(tensor(math.log(3)), tensor(0.0))
    bonus = adv.discriminator_loss(tensor(math.log(3)), tensor(0.0), ent_weight=0.1)
    assert (plain - bonus).item() == pytest.approx(0.1 * entropy)


def test_the_loss_is_finite_and_its_gradient_at_most_one_at_any_logit() -> None:
    logits = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    loss = adv.discriminator_loss(logits, torch.zeros(1)) * 5
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-1, -1, -0.5, 0, 0])


@given(LOGITS)
def test_entropy_of_a_bernoulli(logit: float) -> None:
    d = torch.sigmoid(tensor(logit))
    expected = -(d * d.log() + (1 - d) * torch.sigmoid(-tensor(logit)).log())
    assert adv.bernoulli_entropy(tensor(logit)).item() == pytest.approx(expected.item(), abs=1e-12)


@given(LOGITS)
def test_reward_forms_are_what_their_names_say(logit: float) -> None:
    log_d = torch.sigmoid(tensor(logit)).log().item()
    log_1_d = torch.sigmoid(tensor(-logit)).log().item()
    forms = {name: form(tensor(logit)).item() for name, form in adv.REWARD_FORMS.items()}
    assert forms["-log(1-D)"] == pytest.approx(-log_1_d, rel=1e-9, abs=1e-13)
    assert forms["log D"] == pytest.approx(log_d, rel=1e-9, abs=1e-13)
    assert forms["log D - log(1-D)"] == pytest.approx(log_d - log_1_d, rel=1e-9, abs=1e-12)


def test_reward_forms_at_a_logit_where_a_sigmoid_would_round_to_one() -> None:
    far = torch.tensor([200.0, -200.0])
    assert adv.minus_log_one_minus_d(far).tolist() == [200.0, 0.0]
    assert adv.log_d(far).tolist() == [0.0, -200.0]


def test_airl_is_the_ratio_of_exp_f_and_the_policy() -> None:
    f, log_prob = tensor(math.log(3), 0.0), tensor(math.log(0.5), math.log(0.25))
    d = torch.sigmoid(adv.airl_logits(f, log_prob))
    assert d.tolist() == pytest.approx([3 / 3.5, 1 / 1.25])


def test_interpolates_mix_rows_alike_in_every_part() -> None:
    expert = (torch.ones(2, 3), {"a": torch.full((2, 1, 2), 10.0)})
    learner = (torch.zeros(2, 3), {"a": torch.zeros(2, 1, 2)})
    first, second = adv.interpolates(expert, learner, torch.tensor([0.25, 1.0]))
    assert first.tolist() == [[0.25] * 3, [1.0] * 3]
    assert second["a"].tolist() == [[[2.5, 2.5]], [[10.0, 10.0]]]


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    # l(s, a) = 3 s + 4 a has slope 5 everywhere: (5 − 1)² = 16, and 25 around zero.
    def line(s: torch.Tensor, a: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return (3 * s + 4 * a).squeeze(1)

    rows = [(torch.rand(6, 1), torch.rand(6, 1), torch.rand(6)) for _ in range(2)]
    mix = torch.rand(6)
    assert adv.gradient_penalty(line, *rows, mix).item() == pytest.approx(16.0)
    assert adv.gradient_penalty(line, *rows, mix, target=0.0).item() == pytest.approx(25.0)


def test_gradient_penalty_depends_on_where_it_is_taken_and_trains_the_weights() -> None:
    # l(x) = w x² has slope 2 w x; between x = 2 (expert) and x̃ = 0 with ε = ½ that is 2 w at x̂ = 1.
    w = torch.tensor(3.0, requires_grad=True)
    penalty = adv.gradient_penalty(
        lambda x: w * x.square().squeeze(1), [torch.full((1, 1), 2.0)], [torch.zeros(1, 1)], torch.tensor([0.5])
    )
    assert penalty.item() == pytest.approx((6 - 1) ** 2)
    penalty.backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(2 * (6 - 1) * 2)


def test_gradient_penalty_of_a_flat_discriminator_has_a_finite_gradient() -> None:
    flat = nn.Linear(2, 1)
    nn.init.zeros_(flat.weight)
    penalty = adv.gradient_penalty(lambda x: flat(x).squeeze(1), [torch.rand(4, 2)], [torch.rand(4, 2)], torch.rand(4))
    penalty.backward()
    assert penalty.item() == pytest.approx(1.0)
    assert flat.weight.grad is not None
    assert torch.isfinite(flat.weight.grad).all()


def test_spectral_normalisation_is_torchs_own() -> None:
    """One call a layer, and its largest singular value is 1 after enough iterations."""
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(4, 3), n_power_iterations=50)
    layer(torch.rand(2, 4))
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.defect("B30")
def test_statistics_by_hand() -> None:
    # Expert rows: right, right, wrong; learner rows: right, wrong.
    logits = tensor(math.log(3), 5.0, -1.0, -math.log(3), 2.0)
    expert = torch.tensor([True, True, True, False, False])
    found = adv.discriminator_statistics(logits, expert)
    assert found.accuracy.item() == pytest.approx(3 / 5)
    assert found.accuracy_expert.item() == pytest.approx(2 / 3)
    assert found.accuracy_learner.item() == pytest.approx(1 / 2)
    assert found.proportion_expert_true.item() == pytest.approx(3 / 5)
    assert found.proportion_expert_predicted.item() == pytest.approx(3 / 5)
    assert found.saturation.item() == pytest.approx(1 / 5)
    assert (found.n_expert.item(), found.n_learner.item()) == (3, 2)
    d = 1 / (1 + torch.exp(-logits))
    by_hand = -(expert * d.log() + ~expert * (1 - d).log()).mean().item()
    assert found.loss.item() == pytest.approx(by_hand)
    assert found.entropy.item() == pytest.approx(-(d * d.log() + (1 - d) * (1 - d).log()).mean().item())


@pytest.mark.defect("B30")
def test_statistics_of_the_whole_batch_are_not_those_of_its_last_part() -> None:
    logits, expert = tensor(1.0, 1.0, 1.0, -1.0), torch.tensor([True, True, False, False])
    whole = adv.discriminator_statistics(logits, expert)
    last = adv.discriminator_statistics(logits[2:], expert[2:])
    assert (whole.accuracy.item(), last.accuracy.item()) == (0.75, 0.5)
    assert math.isnan(last.accuracy_expert.item())  # no expert among them


def test_calibration_error_by_hand() -> None:
    # Four rows at D = 0.75 of which two are the expert's: |0.75 − 0.5| = 0.25; one row at D = 0.05, a learner's: 0.05.
    logits = tensor(*[math.log(3)] * 4, math.log(0.05 / 0.95))
    expert = torch.tensor([True, True, False, False, False])
    assert adv.expected_calibration_error(logits, expert).item() == pytest.approx((4 * 0.25 + 0.05) / 5)


def test_a_calibrated_discriminator_has_no_calibration_error() -> None:
    logits = tensor(*[math.log(3)] * 4, 100.0)
    expert = torch.tensor([True, True, True, False, True])
    assert adv.expected_calibration_error(logits, expert).item() == pytest.approx(0.0, abs=1e-12)
