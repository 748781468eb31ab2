"""Where to compute, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3.common.utils import get_device

from understudy.errors import ConfigError

_SMALL = 1 << 22
"""Multiplications a step below which handing work to a second thread costs more than the work itself."""


def resolve_device(device: torch.device | str) -> torch.device:
    """The device by name; "auto" is a GPU if there is one.

    Raises:
        ConfigError: a device that this machine does not have. (Stable-Baselines3 would quietly take the CPU.)
    """
    if device == "auto":
        return get_device("auto")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            expected="the name of a device, such as cpu, cuda or cuda:1", got=repr(device), do="use device='auto'"
        ) from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            expected=f"a machine with the device {wanted}",
            got=f"{torch.cuda.device_count()} CUDA devices",
            do="use device='cpu' or device='auto'",
        )
    return wanted


@contextmanager
def one_thread_if_small(work: int) -> Iterator[None]:
    """Use one thread while this is open if a step takes only ``work`` multiplications; then as many as before.

    Small steps are several times faster so, and give the same bytes whatever the number of threads.
    """
    before = torch.get_num_threads()
    if work >= _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
