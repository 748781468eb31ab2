"""One update of a cloning network, and what is logged about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from understudy.errors import ConfigError, TrainingDivergedError
from understudy.functional.cloning_nests import clip_each, clip_together
from understudy.util.logger import HierarchicalLogger

if TYPE_CHECKING:
    from understudy.algorithms.cloning_agent import LossInfo

OptimizerLike = torch.optim.Optimizer | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""An optimiser, or what makes one from parameters."""


def check_gradient_clipping(max_norm: float | None, clip: str) -> None:
    """Raise ConfigError for a norm that is not positive, or an unknown way of clipping."""
    if clip not in ("variable", "global"):
        raise ConfigError(expected="`clip` 'variable' or 'global'", got=repr(clip), do="correct it")
    if max_norm is not None and not max_norm > 0:
        raise ConfigError(expected="`gradient_clipping` > 0", got=str(max_norm), do="pass None for no clipping")


class Updater:
    """Applies gradients.

    Args:
        network: what learns.
        optimizer: see `OptimizerLike`; None where nothing ever will.
        max_norm: largest norm of a gradient, or None.
        clip: the norm of each variable's, or of all together.

    Raises:
        ConfigError: an optimiser of other parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerLike | None,
        max_norm: float | None,
        clip: Literal["variable", "global"],
    ) -> None:
        self._network = network
        self._max_norm = max_norm
        self._clip = clip_each if clip == "variable" else clip_together
        self.optimizer: torch.optim.Optimizer | None = None
        if isinstance(optimizer, torch.optim.Optimizer):
            self.optimizer = optimizer
            self._check_covers(optimizer)
        elif optimizer is not None and self._learning():
            self.optimizer = optimizer(self._learning())

    def _learning(self) -> list[nn.Parameter]:
        return [p for p in self._network.parameters() if p.requires_grad]

    def _check_covers(self, optimizer: torch.optim.Optimizer) -> None:
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        strangers = [name for name, p in self._network.named_parameters() if p.requires_grad and id(p) not in known]
        if strangers:
            raise ConfigError(
                expected="an optimiser over all parameters of the network that learn",
                got=f"one that does not know {', '.join(strangers[:4])}",
                do="make it from cloning_network.parameters(), or freeze the others with requires_grad_(False)",
            )

    def check_ready(self) -> None:
        """Raise ConfigError unless there is something to update, and an optimiser for it."""
        if not self._learning():
            raise ConfigError(
                expected="a network that learns",
                got="No variables in the agent's network",
                do="give it layers with parameters, registered as attributes of the module",
            )
        if self.optimizer is None:
            raise ConfigError(
                expected="an optimiser to train with",
                got="optimizer=None",
                do="make the agent with torch.optim.Adam(cloning_network.parameters())",
            )

    @contextmanager
    def step_or_nothing(self) -> Iterator[None]:
        """What a forward pass changes is put back if the step fails."""
        buffers = [(b, b.clone()) for b in self._network.buffers()]
        try:
            yield
        except BaseException:
            for buffer, before in buffers:
                buffer.data.copy_(before)
            raise

    def update(self, loss: Tensor) -> None:
        """One step down the gradient.

        Raises:
            TrainingDivergedError: the loss or a gradient is NaN or infinite.
        """
        assert self.optimizer is not None
        _check_finite("Loss", loss)
        self.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # a batch in which nothing counts need not reach any parameter
            loss.backward()
        given = [p for p in self._learning() if p.grad is not None]
        gradients = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in given if p.grad is not None]
        if gradients:
            _check_finite("Gradient", torch.stack([g.sum() for g in gradients]))
        if self._max_norm is not None and gradients:
            for parameter, gradient in zip(given, self._clip(gradients, self._max_norm), strict=True):
                parameter.grad = gradient
        self.optimizer.step()


def _check_finite(what: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise TrainingDivergedError(
            expected="a finite loss and gradient",
            got=f"{what} is inf or nan",
            do="lower the learning rate, pass gradient_clipping=1.0, or look for NaN in the experience; "
            "the network is as it was before this batch",
        )


class Summaries:
    """What is logged of each step.

    Args:
        prefix: before each key.
        debug: also the largest loss, and the share of elements that count.
        variables: also norms of gradients and variables, and histograms of variables.
    """

    def __init__(self, prefix: str, debug: bool, variables: bool) -> None:
        self._prefix = prefix
        self._debug = debug
        self._variables = variables

    def record(
        self,
        logger: HierarchicalLogger,
        network: nn.Module,
        info: LossInfo,
        regularization: Tensor,
        weights: Tensor | None,
        *,
        wide: bool,
    ) -> None:
        """Record one step.

        Args:
            logger: where.
            network: after its update, its gradients still there.
            info: the loss before it.
            regularization: part of the loss.
            weights: of the elements, or None.
            wide: this step is about to be written, so that what is costly to compute is worth it.
        """
        if not wide:
            return
        total, extra = float(info.loss.detach()), float(regularization.detach())
        logger.record(f"{self._prefix}Losses/loss", total - extra)
        logger.record(f"{self._prefix}Losses/reg_loss", extra)
        logger.record(f"{self._prefix}Losses/total_loss", total)
        if self._debug:
            logger.record(f"{self._prefix}Debug/largest_loss", float(info.extra.loss.detach().max()))
            counting = 1.0 if weights is None else float((weights > 0).float().mean())
            logger.record(f"{self._prefix}Debug/share_that_counts", counting)
        if self._variables:
            for name, parameter in network.named_parameters():
                key = f"{self._prefix}summarize_vars/{name}"
                value = parameter.detach()
                logger.record(f"{key}_value_norm", float(torch.linalg.vector_norm(value)))
                logger.record(f"{key}_value", value.cpu(), exclude=("stdout", "log", "json", "csv", "wandb"))
                if parameter.grad is not None:
                    norm = float(torch.linalg.vector_norm(parameter.grad))
                    logger.record(f"{self._prefix}summarize_grads/{name}_norm", norm)
