"""What DAgger keeps between processes, and how a trainer is made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._bc_state import BCOptions
from understudy.algorithms._dagger_beta import AnyBetaSchedule
from understudy.algorithms._network_state import (
    compile_option,
    optimizer_class,
)
from understudy.algorithms._supervised import Schedule
from understudy.algorithms.bc import BC
from understudy.errors import CheckpointError, ConfigError
from understudy.util.checkpoint import Checkpoint, latest, read_checkpoint
from understudy.util.logger import HierarchicalLogger
from understudy.util.paths import AnyPath, parse_path
from understudy.util.seeding import generator_from
from understudy.util.space_json import space_from_json

if TYPE_CHECKING:
    from understudy.data.acting import AnyPolicy

KINDS = ("DAggerTrainer", "SimpleDAggerTrainer")
LATEST = "checkpoint-latest"
POLICY_FILE = "policy.safetensors"


@dataclasses.dataclass(frozen=True)
class Given:
    """What no file holds, and the caller gives again; None where it is not needed."""

    venv: VecEnv
    custom_logger: HierarchicalLogger | None = None
    device: torch.device | str = "auto"
    expert_policy: AnyPolicy = None
    gate: Any = None
    beta_schedule: AnyBetaSchedule | None = None
    optimizer_cls: type[torch.optim.Optimizer] | None = None
    lr_schedule: Schedule | None = None
    custom_objects: Mapping[str, Any] | None = None


def read_trainer(path: AnyPath) -> Checkpoint:
    """The newest state in a scratch folder, among a run's checkpoints, or of one checkpoint.

    Raises:
        MissingFileError: nothing there.
        CorruptFileError: truncated or altered.
        CheckpointError: the state of another kind of trainer.
    """
    folder = parse_path(path)
    if (folder / LATEST).is_dir():
        folder = folder / LATEST
    checkpoint = read_checkpoint(latest(folder) or folder)
    if checkpoint.kind not in KINDS:
        raise CheckpointError(
            expected=f"a checkpoint of DAgger at {folder}",
            got=f"one of {checkpoint.kind}",
            do="load it with the class that wrote it",
        )
    return checkpoint


def bc_from(saved: Mapping[str, Any], folder: Path, given: Given) -> BC:
    """The inner trainer, with the policy in ``folder``.

    Raises:
        ConfigError: something is needed that is not kept in files.
        CorruptFileError: not such a state.
    """
    from understudy.policies.serialize import load_saved_policy  # reads files: only when asked

    options = BCOptions.of(saved["options"])
    if options.lr_schedule and given.lr_schedule is None:
        raise ConfigError(
            expected="`lr_schedule`, since the trainer was saved with one",
            got="none",
            do="pass the same function again, or lr_schedule=lambda remaining: 1e-3",
        )
    policy = load_saved_policy(folder / POLICY_FILE, given.device, given.custom_objects)
    if not isinstance(policy, ActorCriticPolicy):
        raise ConfigError(
            expected=f"an actor-critic policy in {folder}", got=type(policy).__name__, do="use the folder as it was"
        )
    made = BC(
        observation_space=space_from_json(options.observation_space),
        action_space=space_from_json(options.action_space),
        rng=generator_from(saved["rng"]),
        policy=policy,
        batch_size=options.batch_size,
        minibatch_size=options.minibatch_size,
        optimizer_cls=optimizer_class(options.optimizer, given.optimizer_cls),
        ent_weight=options.ent_weight,
        l2_weight=options.l2_weight,
        custom_logger=given.custom_logger,
        max_grad_norm=options.max_grad_norm,
        lr_schedule=given.lr_schedule,
        compile=compile_option(options.compile, None),
        sequence_length=options.sequence_length,
        burn_in=options.burn_in,
    )
    made.restore(saved, folder)
    return made
