"""A cloning agent as plain values and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from understudy.algorithms._network_state import (
    freeze_again,
    frozen_names,
    passing_buffers,
    restore_optimizer,
    restore_passing_buffers,
)
from understudy.data.types import AnyPath
from understudy.errors import CheckpointError, ConfigError
from understudy.util.checkpoint import latest, read_checkpoint, using
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import generator_from, generator_state
from understudy.util.space_json import space_from_json, space_to_json

if TYPE_CHECKING:
    from understudy.algorithms._cloning_agent_updates import OptimizerLike
    from understudy.algorithms.cloning_agent import BehavioralCloningAgent

_FUNCTION = "function"
_PLAIN = (
    "num_outer_dims",
    "gradient_clipping",
    "debug_summaries",
    "summarize_grads_and_vars",
    "name",
    "clip",
    "mask_boundary",
    "continuous_loss",
    "log_interval",
)


def agent_state(agent: BehavioralCloningAgent) -> dict[str, Any]:
    """Everything that learning changes, and the options; functions by the word that they were there."""
    epsilon = agent.epsilon_greedy
    varies = callable(epsilon) and not isinstance(epsilon, Tensor)
    optimizer = agent.optimizer
    return {
        "options": {
            **{name: getattr(agent, name) for name in _PLAIN},
            "observation_space": space_to_json(agent.observation_space),
            "action_space": space_to_json(agent.action_space),
            "loss_fn": _FUNCTION if callable(agent.loss_fn) else agent.loss_fn,
            "epsilon_greedy": _FUNCTION if varies else float(epsilon),  # type: ignore[arg-type]
        },
        "network": dict(agent.cloning_network.state_dict()),
        "frozen": frozen_names(agent.cloning_network),
        "buffers": passing_buffers(agent.cloning_network),
        "optimizer": None
        if optimizer is None
        else {"class": type(optimizer).__name__, "state": optimizer.state_dict()},
        "rng": generator_state(agent.rng),
        "train_step": int(agent.train_step_counter),
    }


def restore_agent(agent: BehavioralCloningAgent, state: Mapping[str, Any]) -> None:
    """Copy a state into an agent.

    Raises:
        CheckpointError: of another network or optimiser; nothing was changed.
    """
    _check_same(agent, state)
    agent.cloning_network.load_state_dict(dict(state["network"]))
    freeze_again(agent.cloning_network, state["frozen"])
    restore_passing_buffers(agent.cloning_network, state["buffers"])
    if agent.optimizer is not None and state["optimizer"] is not None:
        restore_optimizer(agent.optimizer, state["optimizer"]["state"])
    agent.rng = generator_from(state["rng"])
    if isinstance(agent.train_step_counter, Tensor):
        agent.train_step_counter.fill_(state["train_step"])
    else:
        agent.train_step_counter = int(state["train_step"])


def _check_same(agent: BehavioralCloningAgent, state: Mapping[str, Any]) -> None:
    mine = {name: tuple(t.shape) for name, t in agent.cloning_network.state_dict().items() if isinstance(t, Tensor)}
    saved = {name: tuple(t.shape) for name, t in state["network"].items() if isinstance(t, Tensor)}
    if mine != saved:
        differing = sorted(name for name in {*mine, *saved} if mine.get(name) != saved.get(name))
        raise CheckpointError(
            expected=f"the network that was saved: {_shown(saved, differing)}",
            got=_shown(mine, differing),
            do="build the same architecture again before loading",
        )
    if agent.optimizer is not None and state["optimizer"] is not None:
        name = state["optimizer"]["class"]
        if type(agent.optimizer).__name__ != name:
            raise CheckpointError(
                expected=f"the optimiser that the agent was saved with, {name}",
                got=type(agent.optimizer).__name__,
                do=f"pass torch.optim.{name}",
            )


def _shown(shapes: Mapping[str, tuple[int, ...]], names: list[str]) -> str:
    return ", ".join(f"{name} {shapes.get(name, 'missing')}" for name in names[:4])


def load_agent(
    cls: type[BehavioralCloningAgent],
    path: AnyPath,
    cloning_network: nn.Module,
    optimizer: OptimizerLike | None,
    *,
    loss_fn: Any,
    epsilon_greedy: Any,
    custom_logger: HierarchicalLogger | None,
    device: str | torch.device,
) -> BehavioralCloningAgent:
    """See ``BehavioralCloningAgent.load``."""
    checkpoint = read_checkpoint(latest(path) or path, kind=cls.__name__)
    with using(checkpoint.path):
        state = checkpoint.state["trainer"]
        options = dict(state["options"])
        given: dict[str, Any] = {
            "loss_fn": _given_again("loss_fn", options.pop("loss_fn"), loss_fn),
            "epsilon_greedy": _given_again("epsilon_greedy", options.pop("epsilon_greedy"), epsilon_greedy),
        }
        agent = cls(
            space_from_json(options["observation_space"]),
            space_from_json(options["action_space"]),
            cloning_network,
            optimizer,
            rng=generator_from(state["rng"]),
            custom_logger=custom_logger,
            device=device,
            **given,
            **{name: options[name] for name in _PLAIN},
        )
        agent.restore(state, checkpoint.path)
        return agent


def _given_again(name: str, saved: Any, given: Any) -> Any:
    if given is not None:
        return given
    if saved == _FUNCTION:
        raise ConfigError(
            expected=f"`{name}`, since the agent was saved with a function",
            got="none",
            do="pass the same function again",
        )
    return saved
