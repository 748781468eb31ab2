"""One step of behavioural cloning on an actor-critic policy: in closed form where the actor is a plain network, by
autograd everywhere else. Both compute the loss of ``functional.cloning`` and reach the same gradient.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from understudy.data.batches import Batch, ObsTensor
from understudy.errors import ConfigError
from understudy.functional.cloning import HeadTerms, cloning_loss
from understudy.policies.heads import (
    Head,
    actor_features,
    acts_by_its_parts,
    as_targets,
    head_of,
    log_likelihood,
)
from understudy.util.flat_mlp import ClosedFormMLP, FlatAdam, FlatParameters, Layer, clip_norm, plain_layers
from understudy.util.onednn import fast_linears

StepPath = Literal["closed_form", "autograd", "compiled"]


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What the loss is made of."""

    ent_weight: float
    l2_weight: float
    max_grad_norm: float | None = None


class CloningStep(ABC):
    """What both ways share: the policy, its optimiser, and the terms of the loss.

    Use inside ``with step.running():``.
    """

    path: StepPath

    def __init__(
        self,
        policy: ActorCriticPolicy,
        optimizer: torch.optim.Optimizer,
        settings: LossSettings,
        minibatch_size: int | None,
    ) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.settings = settings
        self._minibatch_size = minibatch_size
        self._dtype = torch.float32

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open the policy is in training mode."""
        self.refresh()
        yield

    def prepare(self, chunk: Batch) -> Batch:
        """Actions as the policy's distribution reads them."""
        return dataclasses.replace(chunk, acts=as_targets(chunk.acts, self.policy.action_space, self._dtype))

    def terms(self, batch: Batch) -> HeadTerms:
        """Log-likelihood and entropy of a prepared batch, in evaluation mode, so that no statistic moves."""
        self.policy.set_training_mode(False)
        try:
            with torch.no_grad():
                return self._terms(batch.obs, batch.acts)
        finally:
            self.policy.set_training_mode(True)

    @abstractmethod
    def train(self, batch: Batch) -> None:
        """One optimiser step on a prepared batch."""

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(value)

    def state(self) -> list[Tensor]:
        """Parameters, buffers and the optimiser's moments, in this order: moments appear with the first step."""
        moments = [v for s in self.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        return [t.detach() for t in (*self.policy.parameters(), *self.policy.buffers(), *moments)]

    def refresh(self) -> None:
        """Back to training mode: a callback's ``predict`` leaves evaluation mode behind."""
        self.policy.set_training_mode(True)
        self._dtype = next(self.policy.parameters()).dtype

    def still_fits(self) -> bool:
        """Whether the policy is still of the kind that this way of taking steps was chosen for."""
        return True

    def _terms(self, obs: ObsTensor, acts: Tensor) -> HeadTerms:
        return log_likelihood(self.policy, obs, acts)

    def _minibatches(self, batch: Batch) -> Sequence[Batch]:
        if self._minibatch_size is None or len(batch) <= self._minibatch_size:
            return (batch,)
        return tuple(batch.split(self._minibatch_size))


class AutogradStep(CloningStep):
    """Any policy: lean eager autograd, the critic left out; compiled on request.

    Args:
        compile: True, or the name of a ``torch.compile`` backend.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        optimizer: torch.optim.Optimizer,
        settings: LossSettings,
        minibatch_size: int | None,
        compile: bool | str = False,
    ) -> None:
        super().__init__(policy, optimizer, settings, minibatch_size)
        self.path = "compiled" if compile else "autograd"
        self._loss: Any = self._eager_loss
        self._preprocess = preprocess_obs if compile else ReusedImages()
        if compile:
            self._loss = torch.compile(self._eager_loss, backend="inductor" if compile is True else compile)

    def refresh(self) -> None:
        """Training mode, and only what is not frozen now will learn."""
        super().refresh()
        self._trainable = [p for p in self.policy.parameters() if p.requires_grad]

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open the policy is in training mode and its large layers use the faster product."""
        with super().running(), fast_linears(self.policy) if self.path == "autograd" else nullcontext():
            yield

    def _terms(self, obs: ObsTensor, acts: Tensor) -> HeadTerms:
        return log_likelihood(self.policy, obs, acts, self._preprocess)

    def _loss_of(self, batch: Batch) -> Tensor:
        loss: Tensor = self._loss(batch.obs, batch.acts, batch.weights)
        return loss

    def _eager_loss(self, obs: ObsTensor, acts: Tensor, weights: Tensor | None) -> Tensor:
        terms = self._terms(obs, acts)
        return cloning_loss(terms.log_prob, terms.entropy, self.settings.ent_weight, weights)

    def train(self, batch: Batch) -> None:
        """One optimiser step, gradients accumulated over minibatches."""
        self.optimizer.zero_grad()
        for part in self._minibatches(batch):
            (self._loss_of(part) * (len(part) / len(batch))).backward()
        if self.settings.l2_weight:
            self._add_l2()
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trainable, self.settings.max_grad_norm, foreach=True)
        self.optimizer.step()

    def _add_l2(self) -> None:
        """The gradient of ½ λ Σ θ² is λ θ; no need to sum all squares for it."""
        with torch.no_grad():
            for p in self._trainable:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                p.grad.add_(p, alpha=self.settings.l2_weight)


class ReusedImages:
    """Stable-Baselines3's preprocessing, with byte images written to one float buffer again and again.

    A fresh buffer of some megabytes costs more in page faults than the conversion itself. The buffer is free again
    once the backward pass of its batch is done.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def __call__(self, obs: ObsTensor, space: spaces.Space[Any], normalize_images: bool = True) -> Any:
        if not isinstance(obs, Tensor) or obs.ndim != 4 or not normalize_images or not is_image_space(space):
            return preprocess_obs(obs, space, normalize_images)
        buffer = self._buffer
        if (
            buffer is None
            or buffer.shape != obs.shape
            or buffer.stride() != obs.stride()
            or buffer.device != obs.device
        ):
            buffer = self._buffer = torch.empty_like(obs, dtype=torch.float32)
        return buffer.copy_(obs).div_(255.0)


class ClosedFormStep(CloningStep):
    """A plain actor: parameters in one vector, gradients in closed form, no graph anywhere.

    Args:
        layers: the actor's linear layers and activations, as ``closed_form_layers`` finds them.
        head: the policy's distribution.
    """

    path = "closed_form"

    def __init__(
        self,
        policy: ActorCriticPolicy,
        optimizer: torch.optim.Optimizer,
        settings: LossSettings,
        minibatch_size: int | None,
        layers: Sequence[Layer],
        head: Head,
    ) -> None:
        super().__init__(policy, optimizer, settings, minibatch_size)
        self._layers = layers
        self._closed_head = head
        # Only features that never move may be computed once for a whole chunk.
        self._static_features = type(policy.pi_features_extractor) in (FlattenExtractor, CombinedExtractor)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open the actor's parameters are views into one vector."""
        self._pack()
        try:
            with super().running():
                yield
        finally:
            self._release()

    def _pack(self) -> None:
        actor = [p for layer in self._layers for p in layer.linear.parameters()] + list(self._closed_head.parameters)
        # A penalty on all weights reaches the critic's too; without one they have no gradient and stay out.
        others = [p for p in self.policy.parameters() if p.requires_grad] if self.settings.l2_weight else []
        packed = list(dict.fromkeys([*actor, *others]))
        self._flat = FlatParameters(packed)
        self._mlp = ClosedFormMLP(self._layers)
        fused = FlatAdam.supports(self.optimizer, packed)
        self._adam = FlatAdam(self.optimizer, self._flat) if fused else None  # type: ignore[arg-type]

    def _release(self) -> None:
        if self._adam is not None:
            self._adam.release()
        self._flat.release()
        del self._flat, self._mlp, self._adam  # copies of all parameters, gradients and moments

    def refresh(self) -> None:
        """Training mode, and everything packed again if someone moved the policy or loaded a state."""
        super().refresh()
        if not all(p.requires_grad for p in self._flat.parameters):
            raise ConfigError(
                expected="the same trainable parameters throughout one call of `train`",
                got="layers frozen by a callback",
                do="freeze them between two calls of `train`",
            )
        if not self._flat.intact() or (self._adam is not None and not self._adam.intact()):
            self._pack()

    def still_fits(self) -> bool:
        """Whether the actor is made of the same plain layers, none of them frozen since."""
        now = closed_form_layers(self.policy)
        return now is not None and [layer.linear for layer in now] == [layer.linear for layer in self._layers]

    def prepare(self, chunk: Batch) -> Batch:
        """Actions as targets, and the features of all batches at once where they never move."""
        chunk = super().prepare(chunk)
        return (
            dataclasses.replace(chunk, obs=actor_features(self.policy, chunk.obs)) if self._static_features else chunk
        )

    def _terms(self, obs: ObsTensor, acts: Tensor) -> HeadTerms:
        features = obs if isinstance(obs, Tensor) and self._static_features else actor_features(self.policy, obs)
        return self._closed_head.terms(self._mlp.forward(features), acts)

    def train(self, batch: Batch) -> None:
        """One optimiser step, gradients accumulated over minibatches."""
        gradient = self._flat.gradient
        rows = batch.acts.shape[0]  # `len` of a tensor asks torch whether it is being traced
        if self._minibatch_size is None or rows <= self._minibatch_size:
            self._write_gradient(batch, rows)
        else:
            total = torch.zeros_like(gradient)
            for part in self._minibatches(batch):
                self._write_gradient(part, rows)
                total.add_(gradient)
            gradient.copy_(total)
        if self.settings.l2_weight:
            gradient.add_(self._flat.vector, alpha=self.settings.l2_weight)
        if self.settings.max_grad_norm is not None:
            clip_norm(gradient, self.settings.max_grad_norm)
        if self._adam is not None:
            self._adam.step()
        else:
            self.optimizer.step()
        if self.settings.l2_weight:
            gradient.zero_()  # entries of the critic are only ever added to

    def _write_gradient(self, batch: Batch, batch_size: int) -> None:
        obs = batch.obs
        features = obs if self._static_features else actor_features(self.policy, obs)
        assert isinstance(features, Tensor)
        scale: Tensor | float = 1.0 / batch_size
        if batch.weights is not None:
            scale = (batch.weights.to(self._dtype) / batch_size)[:, None]
        outputs = self._mlp.forward(features)
        self._mlp.backward(self._closed_head.gradient(outputs, batch.acts, self.settings.ent_weight, scale))


def closed_form_layers(policy: ActorCriticPolicy) -> list[Layer] | None:
    """The actor as plain layers on features that need no gradient, or None if it is anything else."""
    if not acts_by_its_parts(policy) or head_of(policy) is None or type(policy.mlp_extractor) is not MlpExtractor:
        return None
    extractor = policy.pi_features_extractor
    if any(True for _ in extractor.parameters()) or extractor._forward_hooks or policy.mlp_extractor._forward_hooks:
        return None
    if any(not p.requires_grad for p in head_of(policy).parameters):  # type: ignore[union-attr]
        return None
    layers = plain_layers([policy.mlp_extractor.policy_net, policy.action_net])
    dtypes = {p.dtype for p in policy.parameters()}
    return layers if len(dtypes) == 1 else None


def cloning_step(
    policy: ActorCriticPolicy,
    optimizer: torch.optim.Optimizer,
    settings: LossSettings,
    *,
    minibatch_size: int | None = None,
    compile: bool | str = False,
) -> CloningStep:
    """The fastest way to take this policy's steps: closed form for plain actors, autograd for all others."""
    layers = None if compile else closed_form_layers(policy)
    head = head_of(policy)
    if layers is not None and head is not None:
        return ClosedFormStep(policy, optimizer, settings, minibatch_size, layers, head)
    return AutogradStep(policy, optimizer, settings, minibatch_size, compile)
