"""Small networks, the layers that normalise their input, and switching between training and evaluation."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from understudy.errors import ConfigError


@contextlib.contextmanager
def training_mode(m: nn.Module, mode: bool = False) -> Iterator[None]:
    """Put ``m`` and every submodule in training (``True``) or evaluation mode, and give each its own mode back.

    Submodules that were in different modes are restored one by one, also when the block raises.
    """
    before = [(module, module.training) for module in m.modules()]
    m.train(mode)
    try:
        yield
    finally:
        for module, was_training in before:
            # Not `.train()`: that would set the children as well, which keep modes of their own.
            module.training = was_training


training = functools.partial(training_mode, mode=True)
"""``with training(module):`` is `training_mode` with ``mode=True``."""

evaluating = functools.partial(training_mode, mode=False)
"""``with evaluating(module):`` is `training_mode` with ``mode=False``."""


class SqueezeLayer(nn.Module):
    """Drops the last axis, of length 1: ``(batch, 1)`` becomes ``(batch,)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(batch, 1)`` to ``(batch,)``.

        Raises:
            ConfigError: ``x`` is not of shape ``(batch, 1)``.
        """
        if x.ndim != 2 or x.shape[1] != 1:
            raise ConfigError("a tensor of shape (batch, 1)", f"shape {tuple(x.shape)}", "squeeze only one output unit")
        return x.squeeze(1)


class BaseNorm(nn.Module, ABC):
    """Normalises features with running estimates of their mean and (biased) variance.

    In training mode each batch first moves the estimates and is then normalised with the moved ones. Before the
    first batch the estimates are mean 0 and variance 1.

    Args:
        num_features: the length of the last axis; inputs have shape ``(batch, num_features)``.
        eps: added to the variance before the square root, so that a constant feature gives 0 instead of NaN.
    """

    running_mean: torch.Tensor
    """Shape ``(num_features,)``."""
    running_var: torch.Tensor
    """Shape ``(num_features,)``; divided by the count, not by the count less one."""
    count: torch.Tensor
    """Rows seen so far, an integer scalar."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def reset_running_stats(self) -> None:
        """Forget every batch: mean 0, variance 1, count 0."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.count.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape ``(batch, num_features)`` in and out; gradients flow to ``x`` but not into the estimates.

        Raises:
            ConfigError: the last axis has another length. With one feature the shape may be ``(batch,)``.
        """
        features = self.running_mean.shape[0]
        if features != 1 and x.shape[-1] != features:
            raise ConfigError(f"{features} features", f"an input of shape {tuple(x.shape)}", "match num_features")
        if self.training:
            with torch.no_grad():
                self.update_stats(x)
        return (x - self.running_mean) / torch.sqrt(self.running_var + self.eps)

    @abstractmethod
    def update_stats(self, batch: torch.Tensor) -> None:
        """Move the estimates by a batch of shape ``(batch, num_features)``; an empty batch changes nothing."""


class RunningNorm(BaseNorm):
    """Mean and variance of everything seen so far, as if all batches had been one.

    Chan, Golub & LeVeque (1979), eq. 2.1: two sets are merged from their counts, means and sums of squared
    deviations, which stays exact where a running sum of squares would cancel.
    """

    def update_stats(self, batch: torch.Tensor) -> None:
        """Merge a batch of any size, one row included."""
        batch = batch.detach().reshape(-1, self.running_mean.shape[0]).to(self.running_mean.dtype)
        rows = batch.shape[0]
        if rows == 0:
            return
        batch_var, batch_mean = torch.var_mean(batch, dim=0, correction=0)
        total = self.count + rows
        # This batch's part of all rows: 1 on the first batch, so the initial values vanish.
        share = rows / total.to(self.running_mean.dtype)
        delta = batch_mean - self.running_mean
        self.running_mean += share * delta
        self.running_var += share * (batch_var - self.running_var) + share * (1 - share) * delta.square()
        self.count.copy_(total)


class EMANorm(BaseNorm):
    """Exponentially fading estimates, debiased: the first batch is taken as it is.

    The weight of batch ``i`` out of ``n`` is proportional to ``decay ** (n - i)``, so that the weights sum to one
    from the first batch on. Mean and variance are those of that weighted mixture of batches.

    Args:
        num_features: as in `BaseNorm`.
        decay: between 0 and 1, exclusive; the nearer to 1, the longer the memory.
        eps: as in `BaseNorm`.
    """

    inv_learning_rate: torch.Tensor
    """The sum of ``decay ** k`` over the batches so far: one over the newest batch's weight."""
    num_batches: torch.Tensor
    """Batches seen so far, an integer scalar."""

    def __init__(self, num_features: int, decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        if not 0 < decay < 1:
            raise ConfigError("a decay strictly between 0 and 1", str(decay), "0.99 is a common choice")
        self.decay = decay
        self.register_buffer("inv_learning_rate", torch.zeros(()))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def reset_running_stats(self) -> None:
        """Forget every batch."""
        super().reset_running_stats()
        self.inv_learning_rate.zero_()
        self.num_batches.zero_()

    def update_stats(self, batch: torch.Tensor) -> None:
        """Mix in a batch of any size; its weight does not depend on its size."""
        batch = batch.detach().reshape(-1, self.running_mean.shape[0]).to(self.running_mean.dtype)
        rows = batch.shape[0]
        if rows == 0:
            return
        self.inv_learning_rate.mul_(self.decay).add_(1)
        share = 1 / self.inv_learning_rate
        batch_var, batch_mean = torch.var_mean(batch, dim=0, correction=0)
        delta = batch_mean - self.running_mean
        self.running_mean += share * delta
        self.running_var += share * (batch_var - self.running_var) + share * (1 - share) * delta.square()
        self.count += rows
        self.num_batches += 1


def build_mlp(
    in_size: int,
    hid_sizes: Iterable[int],
    out_size: int = 1,
    name: str | None = None,
    activation: type[nn.Module] = nn.ReLU,
    dropout_prob: float = 0.0,
    squeeze_output: bool = False,
    flatten_input: bool = False,
    normalize_input_layer: type[nn.Module] | None = None,
) -> nn.Sequential:
    """A multilayer perceptron of shape ``(batch, in_size) -> (batch, out_size)``.

    Layers are called ``flatten``, ``normalize_input``, ``dense0``, ``act0``, ``dropout0``, ..., ``dense_final``,
    ``squeeze``, each with ``name_`` in front when a name is given; those that are not asked for are left out.

    Args:
        in_size: features of the (flattened) input.
        hid_sizes: units of each hidden layer; may be empty.
        out_size: units of the output layer.
        name: prefix of the layers' names.
        activation: built without arguments after each hidden layer.
        dropout_prob: applied after each activation; 0 adds no layer.
        squeeze_output: return shape ``(batch,)``; only with ``out_size=1``.
        flatten_input: flatten everything behind the batch axis first.
        normalize_input_layer: built with ``in_size``, for example `RunningNorm`.

    Raises:
        ConfigError: ``squeeze_output`` with more than one output.
    """
    _check_squeeze(squeeze_output, out_size)
    prefix = f"{name}_" if name else ""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if flatten_input:
        layers[f"{prefix}flatten"] = nn.Flatten()
    if normalize_input_layer is not None:
        layers[f"{prefix}normalize_input"] = normalize_input_layer(in_size)
    size = in_size
    for i, hid_size in enumerate(hid_sizes):
        layers[f"{prefix}dense{i}"] = nn.Linear(size, hid_size)
        layers[f"{prefix}act{i}"] = activation()
        if dropout_prob > 0.0:
            layers[f"{prefix}dropout{i}"] = nn.Dropout(dropout_prob)
        size = hid_size
    layers[f"{prefix}dense_final"] = nn.Linear(size, out_size)
    if squeeze_output:
        layers[f"{prefix}squeeze"] = SqueezeLayer()
    return nn.Sequential(layers)


def build_cnn(
    in_channels: int,
    hid_channels: Iterable[int],
    out_size: int = 1,
    name: str | None = None,
    activation: type[nn.Module] = nn.ReLU,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | str = "same",
    dropout_prob: float = 0.0,
    squeeze_output: bool = False,
) -> nn.Sequential:
    """A convolutional network of shape ``(batch, in_channels, height, width) -> (batch, out_size)``.

    Convolutions, then the mean over all positions, then one linear layer, so any image size fits. Layers are called
    ``conv0``, ``act0``, ``dropout0``, ..., ``avg_pool``, ``flatten``, ``dense_final``, ``squeeze``, each with
    ``name_`` in front when a name is given.

    Args:
        in_channels: channels of the input, channels first.
        hid_channels: channels of each convolution; may be empty.
        out_size: units of the output layer.
        name: prefix of the layers' names.
        activation: built without arguments after each convolution.
        kernel_size: of each convolution.
        stride: of each convolution; above 1 it needs an integer ``padding``.
        padding: of each convolution, in pixels, or ``"same"`` or ``"valid"``.
        dropout_prob: applied after each activation; 0 adds no layer.
        squeeze_output: return shape ``(batch,)``; only with ``out_size=1``.

    Raises:
        ConfigError: ``squeeze_output`` with more than one output, or ``padding="same"`` with a stride above 1.
    """
    _check_squeeze(squeeze_output, out_size)
    if padding == "same" and stride != 1:
        raise ConfigError("padding='same' only with stride=1", f"stride={stride}", "pass padding as a number of pixels")
    prefix = f"{name}_" if name else ""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for i, hid in enumerate(hid_channels):
        layers[f"{prefix}conv{i}"] = nn.Conv2d(channels, hid, kernel_size, stride=stride, padding=padding)
        layers[f"{prefix}act{i}"] = activation()
        if dropout_prob > 0.0:
            layers[f"{prefix}dropout{i}"] = nn.Dropout(dropout_prob)
        channels = hid
    layers[f"{prefix}avg_pool"] = nn.AdaptiveAvgPool2d(1)
    layers[f"{prefix}flatten"] = nn.Flatten()
    layers[f"{prefix}dense_final"] = nn.Linear(channels, out_size)
    if squeeze_output:
        layers[f"{prefix}squeeze"] = SqueezeLayer()
    return nn.Sequential(layers)


def _check_squeeze(squeeze_output: bool, out_size: int) -> None:
    if squeeze_output and out_size != 1:
        raise ConfigError("out_size=1 with squeeze_output=True", f"out_size={out_size}", "drop squeeze_output")
