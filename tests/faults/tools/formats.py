"""What this library writes: for each form a version to save, and a reader that knows which version it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from tools.states import sha_of
from understudy.data import serialize as data
from understudy.data.types import TrajectoryWithRew
from understudy.policies import serialize as policies
from understudy.policies.base import FeedForward32Policy
from understudy.rewards import serialize as rewards
from understudy.rewards.reward_nets import BasicShapedRewardNet, NormalizedRewardNet
from understudy.util import checkpoint
from understudy.util.networks import RunningNorm


class MixedVersionError(AssertionError):
    """A file was read without complaint, and it is none of the versions written: what must never happen."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A form of file, with contents made from a number."""

    name: str
    """Of the file or folder."""

    save: Callable[[Path, int], None]
    """Write version ``v``."""

    read: Callable[[Path], int]
    """The version found, every value compared; MixedVersionError where it is none."""

    has_slack: bool = False
    """Some bytes mean nothing (dates in a zip), so that a change there alters no value and need not be noticed."""

    def files(self, path: Path) -> list[Path]:
        """The files that it consists of."""
        return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _same(found: Any, expected: Any) -> None:
    if sha_of(found) != sha_of(expected):
        raise MixedVersionError("a file that reads well and is none of the versions written")


def trajectories(version: int, steps: int = 40) -> list[TrajectoryWithRew]:
    """Three episodes, every number of which depends on ``version``."""
    rng = np.random.default_rng(version)
    return [
        TrajectoryWithRew(
            obs=rng.normal(size=(n + 1, 3)).astype(np.float32),
            acts=np.full(n, version),
            infos=np.array([{"version": version, "t": t} for t in range(n)]),
            terminal=bool(n % 2),
            rews=rng.normal(size=n),
        )
        for n in (steps, 1, 2)
    ]


def _values(trajectory: Any) -> list[Any]:
    infos = [dict(info) for info in trajectory.infos]
    return [trajectory.obs, trajectory.acts, infos, trajectory.rews, trajectory.terminal, trajectory.truncated]


def _read_data(path: Path) -> int:
    found = data.load(path)
    version = int(found[0].acts[0])
    expected = trajectories(version, len(found[0].acts))
    _same([_values(each) for each in found], [_values(each) for each in expected])
    return version


def policy(version: int) -> FeedForward32Policy:
    """A small policy whose every parameter is ``version``."""
    box = spaces.Box(-1.0, 1.0, (3,))
    made = FeedForward32Policy(box, spaces.Discrete(2), lambda _: 1e-3, net_arch=[4])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(version)
    return made


_policies: dict[int, FeedForward32Policy] = {}


def _save_policy(path: Path, version: int) -> None:
    if not _policies:
        _policies[0] = policy(0)
    with torch.no_grad():
        for parameter in _policies[0].parameters():
            parameter.fill_(version)
    policies.save_policy(_policies[0], path)


def _read_policy(path: Path) -> int:
    found = policies.load_saved_policy(path, "cpu").state_dict()
    version = int(next(iter(found.values())).reshape(-1)[0])
    _same(found, {name: torch.full_like(value, version) for name, value in found.items()})
    return version


def _reward_net(version: int) -> NormalizedRewardNet:
    """A small network, its normaliser included, whose every tensor is ``version``."""
    box = spaces.Box(-1.0, 1.0, (3,))
    made = NormalizedRewardNet(BasicShapedRewardNet(box, spaces.Discrete(2), reward_hid_sizes=(4,)), RunningNorm)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.fill_(version)
    return made


def _save_reward_net(path: Path, version: int) -> None:
    rewards.save_reward_net(_reward_net(version), path)


def _read_reward_net(path: Path) -> int:
    found = rewards.load_reward_net(path, "cpu").state_dict()
    version = int(next(iter(found.values())).reshape(-1)[0])
    _same(found, {name: torch.full_like(value, version) for name, value in found.items()})
    return version


def state(version: int) -> dict[str, Any]:
    """What a trainer might keep, every number of which depends on ``version``."""
    return {
        "version": version,
        "weights": torch.full((5, 7), float(version)),
        "optimizer": {"moments": [torch.full((3,), version + 0.5), torch.full((3,), version + 0.25)], "step": version},
    }


def _save_checkpoint(path: Path, version: int) -> None:
    checkpoint.write_checkpoint(path, state(version), kind="test")


def _read_checkpoint(path: Path) -> int:
    found = checkpoint.read_checkpoint(path, kind="test").state
    assert isinstance(found, dict)
    version = int(found["version"])
    _same(found, state(version))
    return version


FORMATS = {
    each.name: each
    for each in (
        Format("dataset", lambda path, v: data.save(path, trajectories(v)), _read_data),
        Format("dataset.npz", lambda path, v: data.save(path, trajectories(v)), _read_data, has_slack=True),
        Format("policy.safetensors", _save_policy, _read_policy),
        Format("reward.safetensors", _save_reward_net, _read_reward_net),
        Format("checkpoint", _save_checkpoint, _read_checkpoint),
    )
}
