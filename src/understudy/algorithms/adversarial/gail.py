"""Generative adversarial imitation learning (GAIL).

Ho & Ermon (2016), https://arxiv.org/abs/1606.03476, algorithm 1: the learner climbs what a discriminator says of it,
the discriminator learns to tell it from the expert.

Differences from the paper:
    * any learner of Stable-Baselines3 in place of TRPO;
    * the reward form is a choice. The paper's cost log D (its D is the learner's probability) is the reward
      ``-log(1-D)`` here, always ≥ 0: it pays for living longer, which is right only where episodes are of one length;
    * no causal entropy term of its own: that is the learner's ``ent_coef``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from understudy.algorithms import base
from understudy.algorithms.adversarial.common import AdversarialTrainer
from understudy.errors import ConfigError
from understudy.functional import adversarial
from understudy.rewards.reward_nets import ForwardWrapper, RewardNet, wrap_forward

RewardForm = Literal["-log(1-D)", "log D", "log D - log(1-D)"]

_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "-log(1-D)": adversarial.minus_log_one_minus_d,
    "log D": adversarial.log_d,
    "log D - log(1-D)": adversarial.log_d_minus_log_one_minus_d,
}


class RewardNetFromDiscriminatorLogit(ForwardWrapper):
    """Makes the discriminator's logits into rewards.

    Args:
        base: gives logits, high for the expert.
        form: ``-log(1-D)`` (≥ 0: pays for going on), ``log D`` (≤ 0: pays for ending) or their sum (either sign),
            with D = sigmoid(logit).

    Raises:
        ConfigError: another form.
    """

    def __init__(self, base: RewardNet, form: RewardForm = "-log(1-D)") -> None:
        if form not in _FORMS:
            raise ConfigError(expected=f"one of {', '.join(map(repr, _FORMS))}", got=repr(form), do="choose one")
        super().__init__(base)
        self.form = form

    def forward(self, state: Tensor, action: Tensor, next_state: Tensor, done: Tensor) -> Tensor:
        """Rewards, shape (batch,)."""
        return _FORMS[self.form](self.base(state, action, next_state, done))


class GAIL(AdversarialTrainer):
    """Imitation with a discriminator's logits as the only measure.

    Args:
        demonstrations: see `AdversarialTrainer`.
        demo_batch_size: see `AdversarialTrainer`.
        venv: see `AdversarialTrainer`.
        gen_algo: see `AdversarialTrainer`.
        reward_net: gives the discriminator's logits.
        reward_form: what the learner is paid, see `RewardNetFromDiscriminatorLogit`.
        kwargs: of `AdversarialTrainer`.
    """

    def __init__(
        self,
        *,
        demonstrations: base.AnyTransitions,
        demo_batch_size: int,
        venv: VecEnv,
        gen_algo: BaseAlgorithm,
        reward_net: RewardNet,
        reward_form: RewardForm = "-log(1-D)",
        **kwargs: Any,
    ) -> None:
        self.reward_form = reward_form
        # Normalisers of the output stay outermost: they normalise rewards, not logits.
        self._reward = wrap_forward(reward_net, lambda net: RewardNetFromDiscriminatorLogit(net, reward_form))
        super().__init__(
            demonstrations=demonstrations,
            demo_batch_size=demo_batch_size,
            venv=venv,
            gen_algo=gen_algo,
            reward_net=reward_net,
            **kwargs,
        )

    def logits_expert_is_high(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        done: Tensor,
        log_policy_act_prob: Tensor | None = None,
    ) -> Tensor:
        """The reward net's outputs, shape (batch,); the policy's probabilities are not used."""
        logits: Tensor = self._reward_net(state, action, next_state, done)
        return logits

    def _own_identity(self) -> dict[str, Any]:
        return {"reward_form": self.reward_form}

    @property
    def reward_train(self) -> RewardNet:
        """The rewards made of the logits."""
        return self._reward

    @property
    def reward_test(self) -> RewardNet:
        """The same."""
        return self._reward
