"""How the discriminator stands, as the log shows it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from understudy.functional.adversarial import discriminator_statistics


def compute_train_stats(
    disc_logits_expert_is_high: Tensor, labels_expert_is_one: Tensor, disc_loss: Tensor
) -> Mapping[str, float]:
    """Figures of the discriminator on one whole batch.

    Args:
        disc_logits_expert_is_high: shape (batch,).
        labels_expert_is_one: 1 where the row is the expert's, shape (batch,).
        disc_loss: what was minimised.

    Returns:
        ``disc_loss``, ``disc_acc``, ``disc_acc_expert``, ``disc_acc_gen`` (shares told right), ``disc_entropy`` (nats),
        ``disc_proportion_expert_true`` and ``…_pred``, ``n_expert``, ``n_generated``, ``disc_saturation`` (share told
        with more than 99 %) and ``disc_calibration_error``. A share of no rows is NaN.
    """
    found = discriminator_statistics(disc_logits_expert_is_high.detach(), labels_expert_is_one.bool())
    named = {
        "disc_loss": disc_loss.detach(),
        "disc_acc": found.accuracy,
        "disc_acc_expert": found.accuracy_expert,
        "disc_acc_gen": found.accuracy_learner,
        "disc_entropy": found.entropy,
        "disc_proportion_expert_true": found.proportion_expert_true,
        "disc_proportion_expert_pred": found.proportion_expert_predicted,
        "n_expert": found.n_expert,
        "n_generated": found.n_learner,
        "disc_saturation": found.saturation,
        "disc_calibration_error": found.calibration_error,
    }
    values = torch.stack([value.float() for value in named.values()]).tolist()  # one wait for the device
    return dict(zip(named, values, strict=True))
