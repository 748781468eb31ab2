"""Cloning with any network and any structure of actions, in batches or sequences.

Pomerleau (1991), "Efficient Training of Artificial Neural Networks for Autonomous Navigation",
https://doi.org/10.1162/neco.1991.3.1.88, behind the interface of TF-Agents' ``BehavioralCloningAgent``: the caller
brings the network and the optimiser, and may bring the loss; the agent brings the update, and policies that act.

Differences from TF-Agents' agent:
    * a distribution over numbers is fitted by its log-likelihood, not by the squared error of one sample, which pulls
      its spread to zero (``continuous_loss="mse_of_sample"`` is that loss);
    * steps at the boundary of two episodes, whose action means nothing, count zero (``mask_boundary=False`` counts
      them);
    * elements of weight zero cannot spoil gradients, not only the loss;
    * ``loss_fn="sum_of_parts"`` fits structured actions without a loss function of one's own;
    * the network is called once when the agent is made, so that what does not fit is told then.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from understudy.algorithms import base
from understudy.algorithms._cloning_agent_experience import Experience, Reader, first_part
from understudy.algorithms._cloning_agent_leaves import LossKind, is_continuous, leaf
from understudy.algorithms._cloning_agent_losses import (
    ContinuousLoss,
    LossFn,
    PartsLoss,
    check_continuous_loss,
    check_default_loss,
    checked_losses,
    combined_weights,
    harmless_where_ignored,
    share_of_steps,
)
from understudy.algorithms._cloning_agent_network import NetworkCaller, parameter_dtype
from understudy.algorithms._cloning_agent_policies import CloningPolicy, Epsilon, epsilon_value
from understudy.algorithms._cloning_agent_specs import AgentSpecs
from understudy.algorithms._cloning_agent_state import agent_state, load_agent, restore_agent
from understudy.algorithms._cloning_agent_updates import OptimizerLike, Summaries, Updater, check_gradient_clipping
from understudy.algorithms._supervised import FitResult, Schedule
from understudy.data.nests import leaf_spaces
from understudy.data.types import AnyPath
from understudy.errors import ConfigError
from understudy.functional.cloning_nests import aggregate
from understudy.util.devices import resolve_device
from understudy.util.logger import HierarchicalLogger
from understudy.util.seeding import torch_seeded

__all__ = ["BehavioralCloningAgent", "BehavioralCloningLossInfo", "CloningPolicy", "Experience", "LossInfo"]

_log = logging.getLogger(__name__)


class BehavioralCloningLossInfo(NamedTuple):
    """What stands beside the loss of a batch."""

    loss: Tensor
    """Loss of each element before weights, shape (*outer)."""


class LossInfo(NamedTuple):
    """The loss of a batch."""

    loss: Tensor
    """One number: weighted mean, regularisation included."""

    extra: BehavioralCloningLossInfo
    """Its parts."""


class BehavioralCloningAgent(AgentSpecs, base.BaseImitationAlgorithm):
    """Fits a network to an expert's actions, and acts by it.

    Args:
        observation_space: of the environment; Dict and Tuple may nest.
        action_space: of the environment; Dict and Tuple may nest, leaves are Box, Discrete, MultiDiscrete or
            MultiBinary.
        cloning_network: ``forward(obs)``, ``forward(obs, state)`` or ``forward(obs, state, episode_start)``; the last
            two see sequences, ``(batch, time, *obs)``, and return (output, next state). The output is nested like the
            action space: logits for choices and bits, the action itself for numbers, or a distribution for any.
            It sees observations as they are: integers stay integers. Trained in place.
        optimizer: of torch, over the network's parameters; or what makes one from parameters, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3)``; None if the agent never trains.
        num_outer_dims: 1 if experience has the outer axis ``batch``, 2 if ``batch time``.
        epsilon_greedy: probability of a random action in ``collect_policy``, or what gives one at each call; used only
            if all actions are discrete.
        loss_fn: ``loss_fn(experience, training)`` gives the loss of each element; "sum_of_parts" adds up the loss of
            each part of an action; None is that too, where there is only one part and no doubt about its loss.
        gradient_clipping: largest norm of a gradient; None for no clipping.
        debug_summaries: log the largest loss in a batch and the share of elements that count.
        summarize_grads_and_vars: log the norms of gradients and variables, and histograms of variables.
        train_step_counter: where to count from; a tensor is counted up in place.
        name: defaults to the class's; the prefix of what is logged if given.
        rng: decides what is random in training, such as dropout: a generator, a seed, or None for a seed that is drawn
            and logged. Policies draw from torch's global generator, as Stable-Baselines3's do.
        clip: clip the gradient of each "variable", or of all by their "global" norm.
        mask_boundary: steps at a boundary count zero.
        continuous_loss: of distributions over numbers: "log_likelihood", "mse_of_sample" or "mse_of_mode".
        custom_logger: where to log; None writes to the terminal and a temporary folder.
        log_interval: calls of ``train`` between two lines of the log, from the first on.
        device: where to train; "auto" is where the network is.

    Raises:
        ConfigError: contradictory options, or a network that does not take the observations.
        UnsupportedSpaceError: a leaf of the action space of another kind.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        cloning_network: nn.Module,
        optimizer: OptimizerLike | None,
        num_outer_dims: Literal[1, 2] = 1,
        epsilon_greedy: Epsilon = 0.1,
        loss_fn: LossFn | Literal["sum_of_parts"] | None = None,
        gradient_clipping: float | None = None,
        debug_summaries: bool = False,
        summarize_grads_and_vars: bool = False,
        train_step_counter: int | Tensor | None = None,
        name: str | None = None,
        *,
        rng: np.random.Generator | int | None = None,
        clip: Literal["variable", "global"] = "variable",
        mask_boundary: bool = True,
        continuous_loss: ContinuousLoss = "log_likelihood",
        custom_logger: HierarchicalLogger | None = None,
        log_interval: int = 500,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(custom_logger=custom_logger)
        if not leaf_spaces(action_space):
            raise ConfigError(
                expected="at least one action: the `action_spec` must contain at least one action",
                got=str(action_space),
                do="pass the environment's action space",
            )
        if num_outer_dims not in (1, 2):
            raise ConfigError(expected="`num_outer_dims` 1 or 2", got=repr(num_outer_dims), do="pass 1 or 2")
        parts = [leaf(where, space) for where, space in leaf_spaces(action_space)]
        if loss_fn is None:
            check_default_loss(action_space)
        elif not callable(loss_fn) and loss_fn != "sum_of_parts":
            raise ConfigError(expected="`loss_fn` a function or 'sum_of_parts'", got=repr(loss_fn), do="correct it")
        check_continuous_loss(continuous_loss)
        check_gradient_clipping(gradient_clipping, clip)
        if not (callable(epsilon_greedy) and not isinstance(epsilon_greedy, Tensor)):
            epsilon_value(epsilon_greedy)
        self.rng = _generator(rng)
        self.observation_space = observation_space
        self.action_space = action_space
        self.cloning_network = cloning_network
        self.num_outer_dims = int(num_outer_dims)
        self.epsilon_greedy = epsilon_greedy
        self.loss_fn = loss_fn
        self.gradient_clipping = gradient_clipping
        self.clip = clip
        self.mask_boundary = mask_boundary
        self.continuous_loss = continuous_loss
        self.debug_summaries = debug_summaries
        self.summarize_grads_and_vars = summarize_grads_and_vars
        self.name = type(self).__name__ if name is None else name
        self.train_step_counter = 0 if train_step_counter is None else train_step_counter
        self.log_interval = log_interval
        self.device = _device_of(cloning_network) if device == "auto" else resolve_device(device)
        cloning_network.to(self.device)
        # Lazy layers get their weights here, from torch's global generator.
        with torch_seeded(self.rng, self.device):
            self._caller = NetworkCaller(cloning_network, observation_space, action_space, self.device)
        self._parts_loss = PartsLoss(self._caller, parts, action_space, self.num_outer_dims, LossKind(continuous_loss))
        self._updater = Updater(cloning_network, optimizer, gradient_clipping, clip)
        self._summaries = Summaries("" if name is None else f"{name}/", debug_summaries, summarize_grads_and_vars)
        self.is_discrete = not any(is_continuous(space) for _, space in leaf_spaces(action_space))
        explore = epsilon_greedy if self.is_discrete else None

        def acting(greedy: bool, epsilon: Epsilon | None = None) -> CloningPolicy:
            return CloningPolicy(observation_space, action_space, self._caller, parts, greedy=greedy, epsilon=epsilon)

        self._policy = acting(greedy=True)
        self._collect_policy = acting(greedy=self.is_discrete, epsilon=explore)

    @property
    def policy(self) -> CloningPolicy:
        """Takes the most likely action."""
        return self._policy

    @property
    def collect_policy(self) -> CloningPolicy:
        """Explores: ε-greedy where all actions are discrete; else samples where the network gives distributions."""
        return self._collect_policy

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """What updates the network."""
        return self._updater.optimizer

    def initialize(self) -> None:
        """Nothing is left to do: the network got its variables when the agent was made. May be called at any time."""

    def preprocess_sequence(self, experience: Any) -> Any:
        """What to do with collected experience before it is stored: nothing."""
        return experience

    def post_process_policy(self) -> CloningPolicy:
        """The policy to use after training: ``policy``, which needs no further work."""
        return self.policy

    def read(self, experience: Any) -> Experience:
        """Experience as tensors on the agent's device, checked; entries that the spaces do not have are left out.

        Args:
            experience: an Experience, a mapping or named tuple with ``obs`` and ``acts`` (or ``observation``,
                ``action`` and ``step_type``), a pair of these, transitions, a trajectory or a list of them.

        Raises:
            DataError: none of these, or shapes that are not the outer axes and then those of the spaces.
        """
        dtype = parameter_dtype(self.cloning_network)
        return Reader(self.observation_space, self.action_space, self.num_outer_dims, self.device, dtype).read(
            experience
        )

    def loss(self, experience: Any, weights: Any = None, training: bool = False) -> LossInfo:
        """The loss of a batch, with its gradient; nothing changes.

        With ``training=True`` it is what ``train`` would return for the same batch now, dropout included.

        Args:
            experience: as `read` takes it.
            weights: one number, or one for each element, shape (batch,) or (batch, time), ≥ 0. At zero, what the
                element holds does not matter, be it NaN. The mean divides by the number of elements, less padding and
                burn-in.
            training: mode of the network.

        Raises:
            DataError: shapes or actions that do not fit the spaces.
            ConfigError: outputs of the network that do not fit the actions.
        """
        buffers = [(b, b.clone()) for b in self.cloning_network.buffers()] if training else []
        try:
            with torch_seeded(copy.deepcopy(self.rng), self.device):
                return self._loss(experience, weights, training)[0]
        finally:
            for buffer, before in buffers:
                buffer.data.copy_(before)

    def _loss(self, experience: Any, weights: Any, training: bool) -> tuple[LossInfo, Tensor, Tensor | None]:
        read = self.read(experience)
        outer = tuple(first_part(read.acts).shape[: self.num_outer_dims])
        combined = combined_weights(read, weights, outer, mask_boundary=self.mask_boundary)
        read = harmless_where_ignored(read, combined, self.action_space)
        function = self.loss_fn if callable(self.loss_fn) else self._parts_loss
        per_element = checked_losses(function(read, training), outer, combined)
        regularization = _regularization(self.cloning_network, per_element)
        total = aggregate(per_element, combined) / share_of_steps(read) + regularization
        return LossInfo(total, BehavioralCloningLossInfo(per_element)), regularization, combined

    def train(self, experience: Any, weights: Any = None) -> LossInfo:
        """One step of the optimiser.

        Args:
            experience: as `read` takes it.
            weights: as in `loss`.

        Returns:
            The loss before the step.

        Raises:
            TrainingDivergedError: the loss or a gradient is NaN or infinite; nothing was changed.
            ConfigError: the agent has no optimiser, or its network no variables.
            DataError: as in `loss`.
        """
        self._updater.check_ready()
        with torch_seeded(self.rng, self.device), self._updater.step_or_nothing():
            info, regularization, combined = self._loss(experience, weights, True)
            self._updater.update(info.loss)
        step = int(self.train_step_counter)
        self.train_step_counter += 1
        logged = step % self.log_interval == 0
        self._summaries.record(self.logger, self.cloning_network, info, regularization, combined, wide=logged)
        if logged:
            self.logger.dump(step)
        detached = BehavioralCloningLossInfo(info.extra.loss.detach())
        return LossInfo(info.loss.detach(), detached)

    def fit(
        self,
        demonstrations: Any,
        *,
        n_epochs: int | None = None,
        n_batches: int | None = None,
        batch_size: int = 64,
        sequence_length: int | None = None,
        burn_in: int = 0,
        schedule: Schedule | None = None,
        on_epoch_end: Callable[[], None] | None = None,
        on_batch_end: Callable[[], None] | None = None,
        progress_bar: bool = True,
    ) -> FitResult:
        """Train on shuffled batches until the budget is used up.

        Args:
            demonstrations: anything the data door takes; for structured actions, experience as `read` takes it, or a
                list of episodes as Experience. Weights in them are used.
            n_epochs: whole passes. Give exactly one of this and ``n_batches``.
            n_batches: optimiser steps.
            batch_size: rows to a step; with ``num_outer_dims=2``, sequences.
            sequence_length: with ``num_outer_dims=2``, cut episodes into pieces of at most so many steps, each from the
                initial state; None for whole episodes.
            burn_in: let up to so many steps before such a piece run the memory, without loss and without gradient.
            schedule: learning rate from the progress remaining (1 → 0); None keeps the optimiser's.
            on_epoch_end: called after each whole pass.
            on_batch_end: called after each step.
            progress_bar: show one, with the time left.

        Raises:
            ConfigError: contradictory options.
            DataError: demonstrations that cannot be used.
            TrainingDivergedError: numbers became NaN or infinite; the last finite parameters are kept.
        """
        from understudy.algorithms._cloning_agent_fit import fit_agent

        return fit_agent(
            self,
            demonstrations,
            n_epochs=n_epochs,
            n_batches=n_batches,
            batch_size=batch_size,
            sequence_length=sequence_length,
            burn_in=burn_in,
            schedule=schedule,
            on_epoch_end=on_epoch_end,
            on_batch_end=on_batch_end,
            progress_bar=progress_bar,
        )

    def state(self) -> dict[str, Any]:
        """Options, parameters, optimiser, random generator and counter."""
        return agent_state(self)

    def restore(self, state: Mapping[str, Any], folder: Path) -> None:
        """Become what was saved; the network must have the same architecture.

        Raises:
            CheckpointError: the state belongs to another network or optimiser.
        """
        restore_agent(self, state)

    @classmethod
    def load(
        cls,
        path: AnyPath,
        cloning_network: nn.Module,
        optimizer: OptimizerLike | None,
        *,
        loss_fn: LossFn | None = None,
        epsilon_greedy: Epsilon | None = None,
        custom_logger: HierarchicalLogger | None = None,
        device: str | torch.device = "auto",
    ) -> BehavioralCloningAgent:
        """Make the agent that ``save`` wrote.

        Args:
            path: the folder.
            cloning_network: of the same architecture; its parameters are replaced.
            optimizer: of the same class, over its parameters; its moments and settings are replaced.
            loss_fn: needed only where there was a function: functions are not kept.
            epsilon_greedy: likewise; None takes what was saved.
            custom_logger: where to log.
            device: where to train.

        Raises:
            MissingFileError: no checkpoint there.
            CorruptFileError: truncated or altered.
            CheckpointError: it belongs to another network or optimiser.
            ConfigError: something is needed that is not kept in files.
        """
        return load_agent(
            cls,
            path,
            cloning_network,
            optimizer,
            loss_fn=loss_fn,
            epsilon_greedy=epsilon_greedy,
            custom_logger=custom_logger,
            device=device,
        )


def _regularization(network: nn.Module, like: Tensor) -> Tensor:
    """Sum of what the network's ``losses`` gives, a method or attribute that holds tensors; zero if it has none."""
    found = getattr(network, "losses", ())
    found = found() if callable(found) else found
    terms: Iterable[Tensor] = found if isinstance(found, (list, tuple)) else [found]
    return torch.stack([like.new_zeros(()), *[term.sum() for term in terms]]).sum()


def _device_of(network: nn.Module) -> torch.device:
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if rng is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        _log.warning("the cloning agent was given no rng: drew the seed %d; pass rng=%d to repeat this run", seed, seed)
        return np.random.default_rng(seed)
    return np.random.default_rng(rng)
