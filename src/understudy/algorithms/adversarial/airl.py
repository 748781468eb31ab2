"""Adversarial inverse reinforcement learning (AIRL).

Fu, Luo & Levine (2018), https://arxiv.org/abs/1710.11248, algorithm 1: a discriminator of the form
D = exp(f) / (exp(f) + π(a | s)), whose f becomes the expert's advantage, and the reward once shaping is parted from it.

Differences from the paper:
    * any learner of Stable-Baselines3 whose action probabilities are known, in place of TRPO;
    * the learner is paid f alone. The paper's log D − log (1 − D) is f − log π(a | s): its entropy bonus is the
      learner's ``ent_coef`` here;
    * the discriminator sees the learner's newest rollout, not a mixture of all iterations.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from understudy.algorithms import base
from understudy.algorithms.adversarial._samples import Rows
from understudy.algorithms.adversarial.common import AdversarialTrainer
from understudy.data.dict_obs import DictObs
from understudy.errors import ConfigError
from understudy.functional.adversarial import airl_logits
from understudy.policies.heads import as_targets, log_likelihood
from understudy.rewards.reward_nets import RewardNet, RewardNetWrapper, ShapedRewardNet

STOCHASTIC_POLICIES = (SACPolicy, ActorCriticPolicy)
"""Policies that tell log π(action | observation)."""


class AIRL(AdversarialTrainer):
    """Imitation that ends with a reward another learner can be trained on.

    Args:
        demonstrations: see `AdversarialTrainer`; the expert should be stochastic.
        demo_batch_size: see `AdversarialTrainer`.
        venv: see `AdversarialTrainer`.
        gen_algo: with a policy that tells its probabilities: see `STOCHASTIC_POLICIES`.
        reward_net: f; a ``BasicShapedRewardNet`` parts reward and shaping.
        kwargs: of `AdversarialTrainer`.

    Raises:
        ConfigError: a policy whose probabilities are not known.
    """

    def __init__(
        self,
        *,
        demonstrations: base.AnyTransitions,
        demo_batch_size: int,
        venv: VecEnv,
        gen_algo: BaseAlgorithm,
        reward_net: RewardNet,
        **kwargs: Any,
    ) -> None:
        if not _tells_probabilities(gen_algo.policy):
            raise ConfigError(
                expected="a learner whose policy tells the probability of an action (PPO, A2C, SAC, …)",
                got=type(gen_algo.policy).__name__,
                do="use GAIL with this learner, or another learner: AIRL's discriminator needs log π(a | s)",
            )
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
        """f(s, a, s') − log π(a | s), shape (batch,).

        Raises:
            ConfigError: without ``log_policy_act_prob``.
        """
        if log_policy_act_prob is None:
            raise ConfigError(
                expected="`log_policy_act_prob`: log π(action | state) of the learner", got="None", do="pass it"
            )
        return airl_logits(self._reward_net(state, action, next_state, done), log_policy_act_prob)

    def _log_probs(self, rows: Rows) -> Tensor:
        policy = self.gen_algo.policy
        obs = rows["obs"]
        policy.set_training_mode(False)  # no statistic moves
        with torch.no_grad():
            seen, _ = policy.obs_to_tensor(dict(obs.unwrap()) if isinstance(obs, DictObs) else obs)
            targets = as_targets(
                torch.as_tensor(rows["acts"], device=policy.device), policy.action_space, torch.float32
            )
            if isinstance(policy, ActorCriticPolicy):
                found = log_likelihood(policy, seen, targets).log_prob
                return found - _log_half_ranges(policy.action_space) if policy.squash_output else found
            assert isinstance(policy, SACPolicy)
            mean, log_std, options = policy.actor.get_action_dist_params(seen)
            distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **options)
            scaled = torch.as_tensor(policy.scale_action(rows["acts"]), device=policy.device).flatten(1)
            # The tanh of an action at the bound has no density: rows there count as just inside.
            log_prob: Tensor = distribution.log_prob(scaled.clamp(-1 + 1e-6, 1 - 1e-6))
            return log_prob - _log_half_ranges(policy.action_space)

    @property
    def reward_train(self) -> RewardNet:
        """f, shaping included."""
        return self._reward_net

    @property
    def reward_test(self) -> RewardNet:
        """The reward without its shaping."""
        net: RewardNet = self._reward_net
        while isinstance(net, RewardNetWrapper):
            if isinstance(net, ShapedRewardNet):
                return net.base
            net = net.base
        return self._reward_net


def _tells_probabilities(policy: Any) -> bool:
    """Whether log π(a | s) follows from the observation alone; a recurrent policy's does not."""
    if isinstance(policy, ActorCriticPolicy):
        needed = [
            p
            for p in inspect.signature(policy.get_distribution).parameters.values()
            if p.default is inspect.Parameter.empty
        ]
        return len(needed) == 1
    return isinstance(policy, STOCHASTIC_POLICIES)


def _log_half_ranges(space: spaces.Space[Any]) -> float:
    """Σ log((high − low) / 2): what the log-density of actions scaled to [-1, 1] has more than the environment's."""
    assert isinstance(space, spaces.Box)
    return float(np.log((space.high.astype(np.float64) - space.low) / 2).sum())
