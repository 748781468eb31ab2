"""Which loss an agent learns by, and how the loss of a batch is put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from understudy.algorithms._cloning_agent_experience import Experience, first_part
from understudy.algorithms._cloning_agent_leaves import Leaf, LossKind, is_continuous
from understudy.algorithms._cloning_agent_network import NetworkCaller, training_mode
from understudy.data.nests import leaf_spaces, leaves, map_nest, nest_like
from understudy.errors import ConfigError, DataError

LossFn = Callable[[Experience, bool], Tensor]
"""(experience, training) → loss of each element, shape (*outer)."""

ContinuousLoss = Literal["log_likelihood", "mse_of_sample", "mse_of_mode"]
_CONTINUOUS = ("log_likelihood", "mse_of_sample", "mse_of_mode")


def check_default_loss(action_space: gym.Space[Any]) -> None:
    """Raise ConfigError unless the actions are a single choice or a single array of numbers."""
    found = leaf_spaces(action_space)
    if len(found) == 1:
        space = found[0][1]
        scalar_choice = space.shape == () and space.dtype is not None and np.dtype(space.dtype).kind in "iu"
        if scalar_choice or is_continuous(space):
            return
    raise ConfigError(
        expected="a `loss_fn`: one must be provided unless there is a single, scalar discrete action or a single "
        "(scalar or non-scalar) continuous action",
        got=f"loss_fn=None for {action_space}",
        do="pass loss_fn='sum_of_parts' for the sum of each part's own loss, or a function of your own",
    )


def check_continuous_loss(name: str) -> None:
    """Raise ConfigError for a name that is none."""
    if name not in _CONTINUOUS:
        raise ConfigError(
            expected=f"`continuous_loss` among {', '.join(_CONTINUOUS)}",
            got=repr(name),
            do="use 'log_likelihood', or 'mse_of_sample' for the loss of TF-Agents",
        )


class PartsLoss:
    """The sum of the losses of all parts of an action.

    Args:
        caller: the network.
        parts: the leaves of the action space.
        action_space: says how outputs are nested.
        n_outer: axes before the spaces' own.
        kind: how distributions over numbers are compared.
    """

    def __init__(
        self, caller: NetworkCaller, parts: list[Leaf], action_space: gym.Space[Any], n_outer: int, kind: LossKind
    ) -> None:
        self._caller = caller
        self._parts = parts
        self._action_space = action_space
        self._n_outer = n_outer
        self._kind = kind

    def __call__(self, experience: Experience, training: bool) -> Tensor:
        """Loss of each element, shape (*outer)."""
        acts = leaves(experience.acts, self._action_space, "acts")
        outer = acts[0].shape[: self._n_outer]
        memory = self._caller.has_memory
        losses = []
        burnt = n_burnt(experience) if memory and self._n_outer == 2 else 0
        with training_mode(self._caller.network, training):
            for output, piece in self._caller.sequences(
                experience.obs, experience.episode_start, self._n_outer, burnt=burnt
            ):
                outputs = leaves(output, self._action_space, "the network's output")
                terms = []
                for part, out, act in zip(self._parts, outputs, acts, strict=True):
                    if memory:
                        act = (act.unsqueeze(1) if self._n_outer == 1 else act)[:, piece]
                    elif self._n_outer == 2:
                        act = act.flatten(0, 1)
                    terms.append(part.loss(out, act, self._kind))
                losses.append(torch.stack(terms).sum(0) if len(terms) > 1 else terms[0])
        return (torch.cat(losses, 1) if memory else losses[0]).reshape(outer)


def n_burnt(experience: Experience) -> int:
    """How many of the first columns of sequences, outer axes ``batch time``, hold burn-in and filling only."""
    if experience.burn_in is None:
        return 0
    silent = experience.burn_in if experience.padding is None else experience.burn_in | experience.padding
    return int(silent.all(0).long().cumprod(0).sum())


def share_of_steps(experience: Experience) -> float:
    """The share of elements that a mean is over: all but filling and burn-in."""
    masks = [mask for mask in (experience.padding, experience.burn_in) if mask is not None]
    if not masks:
        return 1.0
    kept = ~torch.stack(masks).any(0)
    return float(kept.sum().clamp(min=1)) / kept.numel()


def combined_weights(
    experience: Experience, weights: Any, outer: tuple[int, ...], *, mask_boundary: bool
) -> Tensor | None:
    """What each element counts: its weight, or zero where it is no step of an episode.

    Args:
        experience: read already.
        weights: a number, one a sequence or row, or one a step; None for 1.
        outer: sizes of the outer axes.
        mask_boundary: whether steps at a boundary count zero.

    Returns:
        Shape (), (batch,) or (batch, time); None where all weigh 1.

    Raises:
        DataError: weights of another shape, or negative or NaN ones.
    """
    device = first_part(experience.acts).device
    found: Tensor | None = None
    if weights is not None:
        found = torch.as_tensor(weights, dtype=torch.float32, device=device)
        if tuple(found.shape) not in {(), outer[:1], outer}:
            raise DataError(
                expected=f"`weights` as one number, or of shape {outer[:1]}"
                + (f" or {outer}" if len(outer) == 2 else ""),
                got=f"shape {tuple(found.shape)}",
                do="give one weight for each element of the batch",
            )
        if not bool((torch.isfinite(found) & (found >= 0)).all()):
            raise DataError(expected="finite weights ≥ 0", got="others among them", do="clip or shift them")
    masks = [experience.padding, experience.burn_in, experience.boundary if mask_boundary else None]
    for mask in masks:
        if mask is not None:
            kept = (~mask).float()
            if found is None:
                found = kept
            else:
                found = found.reshape(*found.shape, *[1] * (kept.dim() - found.dim())) if found.dim() else found
                found = found * kept
    return found


def harmless_where_ignored(experience: Experience, weights: Tensor | None, action_space: gym.Space[Any]) -> Experience:
    """Elements of weight zero, with values that cannot hurt: no NaN in observations, actions that exist.

    A NaN that goes through a network reaches every gradient, even at a weight of zero; and the action of a step that is
    none may be any number.
    """
    if weights is None:
        return experience
    ignored = weights == 0
    if not bool(ignored.any()):
        return experience

    def calm(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.where(_as_wide(ignored, tensor) & ~torch.isfinite(tensor), torch.zeros_like(tensor), tensor)

    acts = []
    for (_, space), act in zip(leaf_spaces(action_space), leaves(experience.acts, action_space, "acts"), strict=True):
        act = calm(act)
        if not is_continuous(space):
            low = getattr(space, "start", getattr(space, "low", 0))
            lowest = torch.as_tensor(np.asarray(low, dtype=np.int64), device=act.device).to(act.dtype)
            act = torch.where(_as_wide(ignored, act), lowest, act)
        acts.append(act)
    return experience._replace(obs=map_nest(calm, experience.obs), acts=nest_like(action_space, acts))


def _as_wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (like.dim() - mask.dim())) if mask.dim() else mask


def checked_losses(per_element: Any, outer: tuple[int, ...], weights: Tensor | None) -> Tensor:
    """What a loss function gave, if it is one value for each element.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(per_element, Tensor):
        shape = tuple(per_element.shape)
        needed = 1 if weights is None else max(1, weights.dim())
        if shape[:1] == outer[:1] and shape[:needed] == outer[:needed] and shape[: len(outer)] in (outer, outer[:1]):
            return per_element
    raise ConfigError(
        expected=f"a `loss_fn` that returns one loss for each element, shape {outer}",
        got=f"shape {tuple(per_element.shape)}" if isinstance(per_element, Tensor) else type(per_element).__name__,
        do="leave out the mean over the batch; where steps are masked or weighted, keep the axis of time too",
    )
