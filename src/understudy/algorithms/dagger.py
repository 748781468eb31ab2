"""DAgger: learn from an expert's answers in the states that the learner itself gets into.

Ross, Gordon & Bagnell (2011), "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", https://arxiv.org/abs/1011.0686. In each round a mixture of expert and policy acts, the expert labels every
state it meets, and the policy is fitted to all labels so far. With a ``gate`` it is HG-DAgger (Kelly et al. 2019,
https://arxiv.org/abs/1810.02890): a person, or a rule, decides when the expert takes over, and only those steps are
learned from.

Differences from the paper:
    * the policy goes on from its parameters of the round before, for a few epochs, instead of a fit from scratch: as
      good on networks, and far cheaper;
    * the result is the last policy, not the best of all on held-out rollouts: keep the rounds' policies
      (``save_trainer``) and choose with ``evaluate_returns``;
    * β falls linearly over 15 rounds unless told otherwise; the paper's βᵢ = 1 in round 0 only is
      ``LinearBetaSchedule(1)``;
    * who acts is drawn at each step of each environment, and only whole episodes are kept.

Differences of HG-DAgger: the rule is any function of observations and the policy's actions; the doubt of an ensemble,
which the paper uses to choose a safety threshold afterwards, is left to that function.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._dagger_beta import (
    AnyBetaSchedule,
    BetaSchedule,
    ExponentialBetaSchedule,
    LinearBetaSchedule,
    schedule_from,
)
from understudy.algorithms._dagger_collector import Gate, InteractiveTrajectoryCollector
from understudy.algorithms._dagger_relabel import relabel
from understudy.algorithms._dagger_simple import SimpleDAggerTrainer
from understudy.algorithms._dagger_state import Given, bc_from, read_trainer
from understudy.algorithms._dagger_trainer import DAggerTrainer, NeedsDemosException
from understudy.algorithms._dagger_training import DAggerResult, RoundResult
from understudy.data.acting import AnyPolicy
from understudy.data.types import AnyPath
from understudy.util.checkpoint import using
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import generator_from

__all__ = [
    "BetaSchedule",
    "DAggerResult",
    "DAggerTrainer",
    "ExponentialBetaSchedule",
    "InteractiveTrajectoryCollector",
    "LinearBetaSchedule",
    "NeedsDemosException",
    "RoundResult",
    "SimpleDAggerTrainer",
    "reconstruct_trainer",
    "relabel",
]


def reconstruct_trainer(
    scratch_dir: AnyPath,
    venv: VecEnv,
    custom_logger: HierarchicalLogger | None = None,
    device: torch.device | str = "auto",
    *,
    checkpoint: AnyPath | None = None,
    expert_policy: AnyPolicy = None,
    beta_schedule: AnyBetaSchedule | None = None,
    gate: Gate | None = None,
    **bc_options: Any,
) -> DAggerTrainer:
    """Make the trainer that ``save_trainer`` left in its scratch folder; nothing in it is executed.

    Args:
        scratch_dir: the trainer's.
        venv: its environments.
        custom_logger: where to log.
        device: where to put the policy.
        checkpoint: another state than the scratch folder's latest: a folder of ``save``, or a run's checkpoints.
        expert_policy: makes it a `SimpleDAggerTrainer`, which can go on training.
        beta_schedule: needed only where it was a function of your own.
        gate: functions are not kept in files.
        bc_options: ``optimizer_cls``, ``lr_schedule`` and ``custom_objects``, see ``BC.load``.

    Raises:
        MissingFileError: no trainer was saved there.
        CorruptFileError: truncated or altered.
        DataError: the demonstrations are no longer those that it learned from.
        ConfigError: something is needed that is not kept in files.
    """
    found = read_trainer(scratch_dir if checkpoint is None else checkpoint)
    given = Given(venv=venv, custom_logger=custom_logger, device=device, **bc_options)
    with using(found.path):
        state = found.state["trainer"]
        options: dict[str, Any] = {
            "venv": venv,
            "scratch_dir": scratch_dir,
            "rng": generator_from(state["rng"]),
            "bc_trainer": bc_from(state["bc"], found.path, given),
            "beta_schedule": schedule_from(state["beta_schedule"], beta_schedule),
            "custom_logger": custom_logger,
            "gate": gate,
        }
        if expert_policy is None:
            trainer = DAggerTrainer(**options)
        else:
            trainer = SimpleDAggerTrainer(expert_policy=expert_policy, **options)
        trainer._restore_rounds(state)
    return trainer
