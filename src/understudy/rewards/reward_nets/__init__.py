"""Networks that give a reward, and what can be put around them."""

from __future__ import annotations

from understudy.rewards.reward_nets._base import RewardNet, RewardNetWithVariance
from understudy.rewards.reward_nets._basic import BasicRewardNet
from understudy.rewards.reward_nets._cnn import CnnRewardNet
from understudy.rewards.reward_nets._ensemble import RewardEnsemble
from understudy.rewards.reward_nets._images import cnn_transpose
from understudy.rewards.reward_nets._potentials import BasicPotentialCNN, BasicPotentialMLP
from understudy.rewards.reward_nets._shaped import BasicShapedRewardNet, ShapedRewardNet
from understudy.rewards.reward_nets._wrappers import (
    AddSTDRewardWrapper,
    ForwardWrapper,
    NormalizedRewardNet,
    PredictProcessedWrapper,
    RewardNetWrapper,
    wrap_forward,
)

__all__ = [
    "AddSTDRewardWrapper",
    "BasicPotentialCNN",
    "BasicPotentialMLP",
    "BasicRewardNet",
    "BasicShapedRewardNet",
    "CnnRewardNet",
    "ForwardWrapper",
    "NormalizedRewardNet",
    "PredictProcessedWrapper",
    "RewardEnsemble",
    "RewardNet",
    "RewardNetWithVariance",
    "RewardNetWrapper",
    "ShapedRewardNet",
    "cnn_transpose",
    "wrap_forward",
]
