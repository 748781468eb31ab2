"""Where to compute, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from understudy.errors import ConfigError
from understudy.util.devices import one_thread_if_small, resolve_device


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_known_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("device", [f"cuda:{torch.cuda.device_count()}", "abacus"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(device)


def test_small_work_takes_one_thread_and_large_work_all(two_threads: None) -> None:
    with one_thread_if_small(1000):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with one_thread_if_small(1 << 30):
        assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_thread_if_small(1):
        raise KeyError
    assert torch.get_num_threads() == 2
