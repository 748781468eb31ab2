"""One step of behavioural cloning on a policy with memory, by autograd through time."""

from __future__ import annotations

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from understudy.algorithms._cloning_steps import AutogradStep, LossSettings
from understudy.algorithms._sequence_terms import recurrent_terms
from understudy.data.batches import Batch
from understudy.errors import ConfigError
from understudy.functional.cloning import HeadTerms, cloning_loss


class SequenceStep(AutogradStep):
    """sb3-contrib's recurrent policies on batches of sequences; means are over the steps learned from.

    Minibatches are whole sequences.
    """

    def terms(self, batch: Batch) -> HeadTerms:
        """Log-likelihood and entropy of the steps learned from, in evaluation mode."""
        self.policy.set_training_mode(False)
        try:
            with torch.no_grad():
                return recurrent_terms(self.policy, batch)
        finally:
            self.policy.set_training_mode(True)

    def _loss_of(self, batch: Batch) -> Tensor:
        terms = recurrent_terms(self.policy, batch)
        return cloning_loss(terms.log_prob, terms.entropy, self.settings.ent_weight, batch.weights)


def sequence_step(
    policy: ActorCriticPolicy,
    optimizer: torch.optim.Optimizer,
    settings: LossSettings,
    *,
    minibatch_size: int | None = None,
    compile: bool | str = False,
) -> SequenceStep:
    """How a policy with memory takes its steps.

    Raises:
        ConfigError: ``compile``.
    """
    if compile:
        raise ConfigError(
            expected="no `compile` for a policy with memory, whose batches differ in shape",
            got=f"compile={compile!r}",
            do="leave it out",
        )
    return SequenceStep(policy, optimizer, settings, minibatch_size)
