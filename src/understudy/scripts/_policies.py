"""Policies by name or path: the expert, and whoever else is to act."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import ConfigError
from understudy.scripts._parts import Environment, absolute_if_a_path, nearest

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv

_NAMES = ("bundled", "random", "zero")
BUNDLED = "bundled expert"
OTHER = "given expert"


@dataclasses.dataclass(frozen=True)
class Expert:
    """Who shows how it is done."""

    expert: str = "auto"
    """"auto" (bundled; none with --demonstrations PATH), "bundled", "none", or the path of a policy or run folder."""

    def absolute(self) -> Expert:
        """The same, from any working directory."""
        if self.expert in ("auto", "bundled", "none"):
            return self
        return dataclasses.replace(self, expert=absolute_if_a_path(self.expert))

    def load(self, environment: Environment, venv: VecEnv, *, own_data: bool) -> BasePolicy | None:
        """The expert, or None if there is none to be had, or none was asked for beside data of the user's own."""
        if self.expert == "none" or (self.expert == "auto" and own_data):
            return None
        if self.expert == "auto":
            from understudy.policies.serialize import bundled_experts

            return load_any_policy("bundled", venv, environment) if environment.env_id in bundled_experts() else None
        return load_any_policy(self.expert, venv, environment, choices=("auto", "bundled", "none"))

    def name(self, *, own_data: bool) -> str:
        """What to call it beside the clone: with data of the user's own it is not the one who demonstrated."""
        if not own_data:
            return "expert"
        return BUNDLED if self.expert == "bundled" else OTHER


def load_any_policy(
    spec: str, venv: VecEnv, environment: Environment, *, choices: Sequence[str] = _NAMES
) -> BasePolicy:
    """The policy a user means: "bundled", "random", "zero", or the path of a file or run folder.

    Raises:
        ConfigError: neither a known name nor a path that holds a policy.
        SpaceMismatchError: made for other spaces.
    """
    from understudy.errors import SpaceMismatchError
    from understudy.policies.serialize import load_policy, load_saved_policy
    from understudy.util.image_spaces import policy_sees, same_space

    if spec == "bundled":
        return load_policy("bundled", venv, env_name=environment.env_id, device="cpu")
    if spec in ("random", "zero"):
        return load_policy(spec, venv)
    path = find_policy(Path(spec), choices)
    policy = load_saved_policy(path, device="cpu")
    same_actions = same_space(policy.action_space, venv.action_space)
    if not (policy_sees(policy.observation_space, venv.observation_space) and same_actions):
        raise SpaceMismatchError(
            f"a policy for {environment.env_id}: {venv.observation_space}, {venv.action_space}",
            f"{path} for {policy.observation_space}, {policy.action_space}",
            "name the environment the policy was made for",
        )
    return policy


def find_policy(path: Path, choices: Sequence[str] = _NAMES) -> Path:
    """The policy's file: the path itself, or the one in a folder of a model or of a run.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        return path
    for inside in ("policy.safetensors", "policy/policy.safetensors", "policies/final/policy.safetensors"):
        if (path / inside).is_file():
            return path / inside
    meant = nearest(str(path), choices)
    raise ConfigError(
        f"one of {', '.join(choices)}, or the path of a saved policy or run folder",
        f"{path}, a folder without a policy" if path.exists() else f"{path}, which is neither",
        f"did you mean {meant}?" if meant else "check the path; runs of `understudy train` write policy.safetensors",
    )
