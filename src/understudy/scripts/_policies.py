"""Whoever is to act, by what a user calls them: the one place that reads ``--expert`` and ``--policy``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import ConfigError
from understudy.scripts._callables import import_expert, is_reference
from understudy.scripts._parts import Environment, absolute_if_a_path, nearest

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.data.acting import AnyPolicy

_NAMES = ("bundled", "random", "zero", "human")
_CHOICES = ("auto", "bundled", "none", "human")
_HUB = "hub:"
_INSIDE = (
    "policy.safetensors",
    "model.zip",
    "policy/policy.safetensors",
    "policies/final/policy.safetensors",
    "policies/clone/policy.safetensors",
)
BUNDLED = "bundled expert"
OTHER = "given expert"


@dataclasses.dataclass(frozen=True)
class Expert:
    """Who shows how it is done."""

    expert: str = "auto"
    """auto (bundled; none beside own data), bundled, none, human, a policy's path, hub:ORG/ALGO-ENV, or module:name."""

    keys: tuple[str, ...] = ()
    """With human: KEY=NAME for each action in order, as in a=left d=right. None takes usual ones."""

    def absolute(self) -> Expert:
        """The same, from any working directory."""
        if self.expert in _CHOICES:
            return self
        return dataclasses.replace(self, expert=absolute_if_a_path(self.expert))

    @property
    def is_human(self) -> bool:
        """Whether a person at this console is asked."""
        return self.expert == "human"

    def where(self, environment: Environment) -> Environment:
        """Where it shows it: a person is shown one environment, not several in turns."""
        return dataclasses.replace(environment, n_envs=1) if self.is_human else environment

    def load(self, environment: Environment, venv: VecEnv, *, own_data: bool, journal: Path | None = None) -> AnyPolicy:
        """The expert, or None if there is none to be had, or none was asked for beside data of the user's own.

        Args:
            environment: what it acts in,
            venv: and those made of it.
            own_data: whether the user brings demonstrations.
            journal: where a person's answers are kept; None where somebody else keeps them.

        Raises:
            ConfigError: no such expert.
            SpaceMismatchError: made for other spaces.
        """
        if self.keys and not self.is_human:
            raise ConfigError("--keys with --expert human", f"--keys with --expert {self.expert}", "leave one out")
        if self.expert == "none" or (self.expert == "auto" and own_data):
            return None
        if self.expert == "auto":
            from understudy.policies.serialize import bundled_experts

            return load_any_policy("bundled", venv, environment) if environment.env_id in bundled_experts() else None
        found: AnyPolicy = load_any_policy(
            self.expert, venv, environment, choices=_CHOICES, keys=self.keys, journal=journal
        )
        return found

    def name(self, *, own_data: bool) -> str:
        """What to call it beside the clone: with data of the user's own it is not the one who demonstrated."""
        if not own_data:
            return "expert"
        return BUNDLED if self.expert == "bundled" else OTHER


def load_any_policy(
    spec: str,
    venv: VecEnv,
    environment: Environment,
    *,
    choices: Sequence[str] = _NAMES,
    keys: Sequence[str] = (),
    journal: Path | None = None,
) -> Any:
    """The policy a user means: a name, ``hub:…``, ``module:name``, or the path of a file or run folder.

    Raises:
        ConfigError: none of these.
        SpaceMismatchError: made for other spaces.
    """
    from understudy.policies.serialize import load_policy

    if spec == "bundled":
        return load_policy("bundled", venv, env_name=environment.env_id, device="cpu")
    if spec in ("random", "zero"):
        return load_policy(spec, venv)
    if spec == "human":
        from understudy.scripts._person import ask_a_person

        return ask_a_person(venv, environment.env_id, keys, journal)
    if spec.startswith(_HUB):
        return _from_the_hub(spec, venv)
    if is_reference(spec):
        return import_expert(spec, venv)
    return _read(find_policy(Path(spec), choices), venv, environment)


def _read(path: Path, venv: VecEnv, environment: Environment) -> BasePolicy:
    from understudy.errors import SpaceMismatchError
    from understudy.policies._rebuild import rebuild_policy
    from understudy.policies._stable_zip import read_stable_zip
    from understudy.policies.serialize import _check_normalization, load_saved_policy
    from understudy.policies.vec_normalize import normalizes_observations
    from understudy.util.image_spaces import policy_sees, same_space

    if path.suffix == ".zip":
        _check_normalization(normalizes_observations(path), venv, path)
        contents = read_stable_zip(path, policy_only=True)
        return rebuild_policy(contents, None, venv.observation_space, venv.action_space).to("cpu")
    archive = path.with_name("model.zip")
    if path.name == "policy.safetensors" and archive.is_file():
        _check_normalization(normalizes_observations(archive), venv, archive)
    policy = load_saved_policy(path, device="cpu")
    same_actions = same_space(policy.action_space, venv.action_space)
    if not (policy_sees(policy.observation_space, venv.observation_space) and same_actions):
        raise SpaceMismatchError(
            f"a policy for {environment.env_id}: {venv.observation_space}, {venv.action_space}",
            f"{path} for {policy.observation_space}, {policy.action_space}",
            "name the environment the policy was made for",
        )
    return policy


def _from_the_hub(spec: str, venv: VecEnv) -> BasePolicy:
    """``hub:ORGANIZATION/ALGO-ENVIRONMENT``, the convention of huggingface_sb3."""
    from understudy.policies._algorithms import CONTRIB_CLASSES, STABLE_BASELINES_CLASSES
    from understudy.policies.serialize import load_policy

    repository = spec.removeprefix(_HUB)
    organization, _, name = repository.partition("/")
    algo = next((each for each in (*STABLE_BASELINES_CLASSES, *CONTRIB_CLASSES) if name.startswith(f"{each}-")), None)
    if algo is None or not organization:
        raise ConfigError(
            "hub:ORGANIZATION/ALGO-ENVIRONMENT", spec, "write for example hub:HumanCompatibleAI/ppo-CartPole-v1"
        )
    options = {"repo_id": repository, "filename": f"{name}.zip", "device": "cpu"}
    return load_policy(f"{algo}-huggingface", venv, **options)


def find_policy(path: Path, choices: Sequence[str] = _NAMES) -> Path:
    """The policy's file: the path itself, or the one in a folder of a model or of a run.

    Raises:
        ConfigError: there is none.
    """
    if path.is_file():
        return path
    for inside in _INSIDE:
        if (path / inside).is_file():
            return path / inside
    meant = nearest(str(path), choices)
    module, colon, name = str(path).rpartition(":")
    importable = f"{module.removesuffix('.py').strip('./').replace('/', '.')}:{name}"
    if colon and not meant and is_reference(importable):  # instead of ./rules:act, or .rules:act
        meant = f"{importable}, from the folder that holds it"
    raise ConfigError(
        f"one of {', '.join(choices)}, module:name, or the path of a saved policy or run folder",
        f"{path}, a folder without a policy" if path.exists() else f"{path}, which is neither",
        f"did you mean {meant}?" if meant else "check the path; runs of `understudy train` write policy.safetensors",
    )


def asks_a_person(policy: Any) -> bool:
    """Whether evaluating it would take a person's time."""
    return bool(getattr(policy, "asks_a_person", False))
