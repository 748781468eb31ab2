"""PPO's minibatch updates on a plain policy: loss, gradient, clipping and Adam in closed form, without a graph."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from understudy.errors import TrainingDivergedError
from understudy.functional import policy_gradient as pg
from understudy.rl._plain_policies import PlainPolicy
from understudy.rl._ppo_features import epoch_features, shares_features
from understudy.rl._twin_networks import TwinNetworks, packing_order
from understudy.util.flat_mlp import FlatAdam, FlatParameters

Samples = RolloutBufferSamples | DictRolloutBufferSamples


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """PPO's settings during one call of ``train``, under the names that Stable-Baselines3 gives them."""

    batch_size: int
    clip_range: float
    clip_range_vf: float | None
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    normalize_advantage: bool
    target_kl: float | None


@dataclasses.dataclass(frozen=True)
class EpochFigures:
    """What one pass over the data showed, one number a minibatch; the one that stopped it is among them."""

    policy_losses: list[float]
    value_losses: list[float]
    entropy_losses: list[float]
    clip_fractions: list[float]
    approx_kls: list[float]
    stopped: bool
    """Whether the last minibatch was too far from the old policy to learn from."""


class FusedUpdate:
    """Takes PPO's steps; use inside ``with update.running():``.

    Args:
        plain: the policy, in training mode, and its parts.
        settings: as ``train`` found them.
    """

    def __init__(self, plain: PlainPolicy, settings: UpdateSettings) -> None:
        self._plain = plain
        self._settings = settings

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is open all parameters are views into one vector.

        Raises:
            TrainingDivergedError: by ``epoch``; parameters and optimiser are then as they were at the entry.
        """
        plain = self._plain
        parameters = packing_order(plain.actor, plain.critic) + list(plain.head.parameters)
        optimizer = self._optimizer = plain.policy.optimizer
        one_call = FlatAdam.supports(optimizer, parameters)
        values, state = [p.data for p in parameters], {p: optimizer.state.get(p) for p in parameters}
        if not one_call:  # the optimiser's own step writes into its state; packing copies it
            state = copy.deepcopy(state, {id(p): p for p in parameters})
        self._flat = FlatParameters(parameters)
        self._adam = FlatAdam(optimizer, self._flat) if one_call else None  # type: ignore[arg-type]
        self._networks = TwinNetworks(
            plain.actor, plain.critic, packed=True, shared_inputs=shares_features(plain.policy)
        )
        self._gradient = self._flat.gradient.numpy()
        diverged = False
        try:
            yield
        except TrainingDivergedError:
            diverged = True
            raise
        finally:
            if self._adam is not None:
                self._adam.release()
            self._flat.release()
            for p, value in zip(parameters, values, strict=True) if diverged else ():
                p.data = value
                optimizer.state.pop(p, None)
                before = state[p]
                if before:
                    optimizer.state[p] = before
            del self._flat, self._adam, self._networks, self._gradient

    def epoch(self, samples: Samples) -> EpochFigures:
        """One step a minibatch, until all are used or one is further than 1.5 ``target_kl`` from the old policy.

        Args:
            samples: the whole rollout, in the order of this pass.

        Raises:
            TrainingDivergedError: a number became NaN or infinite.
        """
        data = self._data(samples)
        seen = _Seen(data)
        stopped = False
        features = epoch_features(self._plain.policy, samples.observations, data.bounds, self._flat.vector.dtype)
        for k, pair in enumerate(features):
            stopped = not self._step(k, pair, data, seen)
            if stopped:
                break
        figures = self._figures(data, seen, k + 1, stopped)
        if not np.isfinite(self._flat.vector.numpy()).all():
            raise TrainingDivergedError(
                expected="finite parameters after every pass over the rollout",
                got="NaN or infinity",
                do="lower learning_rate or max_grad_norm, and look for extreme observations or rewards"
                " (VecNormalize scales both); parameters and optimiser are as before this call of train",
            )
        return figures

    def _data(self, samples: Samples) -> _Data:
        """The samples in the parameters' precision, batch last, advantages normalised minibatch by minibatch."""
        dtype = self._networks.dtype
        old_values, old_log_prob, advantages, returns = (
            x.numpy().astype(dtype, copy=False)
            for x in (samples.old_values, samples.old_log_prob, samples.advantages, samples.returns)
        )
        n, size = len(advantages), self._settings.batch_size
        bounds = [(start, min(start + size, n)) for start in range(0, n, size)]
        whole = n // size * size
        if self._settings.normalize_advantage:
            parts = [pg.normalized_advantages(advantages[:whole].reshape(-1, size)).reshape(-1)]
            parts += [pg.normalized_advantages(advantages[whole:])] if whole < n else []
            advantages = np.concatenate(parts)
        targets = self._plain.head.targets(samples.actions.numpy(), dtype)
        pieces = [np.ascontiguousarray(targets[:, a:b]) for a, b in bounds]
        return _Data(bounds, pieces, advantages, returns, old_values, old_log_prob)

    def _step(self, k: int, features: tuple[np.ndarray, np.ndarray], data: _Data, seen: _Seen) -> bool:
        """One step on minibatch ``k``; False, and no step, if it is too far from the old policy."""
        settings, head, networks = self._settings, self._plain.head, self._networks
        start, stop = data.bounds[k]
        rows = stop - start
        n = networks.n_outputs
        outputs = networks.forward(features)
        targets = data.targets[k]
        terms = head.terms(outputs[:n], targets)
        seen.log_prob[start:stop] = terms.log_prob
        seen.entropy[start:stop] = terms.entropy
        seen.values[start:stop] = outputs[n]
        log_ratio = terms.log_prob - data.old_log_prob[start:stop]
        if settings.target_kl is not None and pg.approximate_kl(log_ratio).mean() > 1.5 * settings.target_kl:
            return False
        # The 1 / rows of the means goes to the advantages and to the coefficients.
        d_log_prob = -pg.clipped_surrogate_gradient(
            np.exp(log_ratio), data.advantages[start:stop] / rows, settings.clip_range
        )
        d_outputs = np.empty_like(outputs)
        d_outputs[:n] = head.gradient(outputs[:n], terms, targets, d_log_prob, -settings.ent_coef / rows)
        d_values = pg.value_error_gradient(
            outputs[n], data.returns[start:stop], data.old_values[start:stop], settings.clip_range_vf
        )
        np.multiply(d_values, settings.vf_coef / rows, out=d_outputs[n])
        networks.backward(features, d_outputs)
        self._clip_norm()
        if self._adam is not None:
            self._adam.step()
        else:
            self._optimizer.step()
        return True

    def _clip_norm(self) -> None:
        gradient = self._gradient
        norm = math.sqrt(np.dot(gradient, gradient))
        scale = self._settings.max_grad_norm / (norm + 1e-6)
        if not scale >= 1:  # also where the norm is NaN
            np.multiply(gradient, scale, out=gradient)

    def _figures(self, data: _Data, seen: _Seen, n_minibatches: int, stopped: bool) -> EpochFigures:
        """All minibatches' figures at once, from what each step noted."""
        settings = self._settings
        bounds = data.bounds[:n_minibatches]
        log_ratio = seen.log_prob - data.old_log_prob
        ratio = np.exp(log_ratio)
        errors = pg.value_error(seen.values, data.returns, data.old_values, settings.clip_range_vf)

        def means(x: np.ndarray) -> list[float]:
            rows = bounds[0][1]
            whole = len(x[: bounds[-1][1]]) // rows * rows
            per_minibatch: list[float] = x[:whole].reshape(-1, rows).mean(1).tolist()
            return [*per_minibatch, float(x[whole : bounds[-1][1]].mean())] if whole < bounds[-1][1] else per_minibatch

        return EpochFigures(
            policy_losses=means(-pg.clipped_surrogate(ratio, data.advantages, settings.clip_range)),
            value_losses=means(errors),
            entropy_losses=means(-seen.entropy),
            clip_fractions=means(pg.clip_fraction(ratio, settings.clip_range)),
            approx_kls=means(pg.approximate_kl(log_ratio)),
            stopped=stopped,
        )


@dataclasses.dataclass(frozen=True)
class _Data:
    bounds: list[tuple[int, int]]
    targets: list[np.ndarray]
    advantages: np.ndarray
    returns: np.ndarray
    old_values: np.ndarray
    old_log_prob: np.ndarray


class _Seen:
    """What the steps of one pass noted, one number a sample; 0 difference where none was taken."""

    def __init__(self, data: _Data) -> None:
        self.log_prob = data.old_log_prob.copy()
        self.values = data.old_values.copy()
        self.entropy = np.zeros_like(self.values)
