"""How many environment steps a learner takes at a time, and how many of its rows are kept."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit


def usual_round(learner: BaseAlgorithm) -> int:
    """A rollout on-policy, and a step of all environments off-policy."""
    return a_rollout(learner) if isinstance(learner, OnPolicyAlgorithm) else learner.n_envs


def a_rollout(learner: BaseAlgorithm) -> int:
    """Environment steps between two of the learner's updates; 1 where its unit is another."""
    if isinstance(learner, OnPolicyAlgorithm):
        return int(learner.n_steps) * learner.n_envs
    frequency = getattr(learner, "train_freq", None)
    if isinstance(frequency, TrainFreq) and frequency.unit is TrainFrequencyUnit.STEP:
        return frequency.frequency * learner.n_envs
    return 1


def usual_capacity(learner: BaseAlgorithm, a_round: int) -> int:
    """As many rows as the learner's own replay holds off-policy, else those of a round."""
    return learner.buffer_size if isinstance(learner, OffPolicyAlgorithm) else a_round
