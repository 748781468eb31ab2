"""Finding, loading and saving policies.

Files are safetensors with a JSON spec. A model's zip of Stable-Baselines3 holds pickles, so it is opened only when
the caller writes ``trust="pickle"``; `save_stable_model` puts a pickle-free copy of the policy beside each.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EventCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from understudy.errors import ConfigError, MissingFileError, SpaceMismatchError, UntrustedFileError
from understudy.policies._files import read_policy, write_policy
from understudy.policies.base import RandomPolicy, ZeroPolicy
from understudy.util.devices import resolve_device
from understudy.util.files import write_atomically
from understudy.util.image_spaces import policy_sees
from understudy.util.paths import AnyPath, parse_path
from understudy.util.registry import Registry, build_loader_fn_require_space, load_attr

PolicyLoaderFn = Callable[..., BasePolicy]
"""Called with the environments and the keywords given to `load_policy`."""

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)

policy_registry: Registry[PolicyLoaderFn] = Registry()
"""Loaders by the name that `load_policy` takes; add one with ``policy_registry.register("my-policy", loader)``."""

STABLE_BASELINES_CLASSES: Mapping[str, str] = MappingProxyType(
    {name: f"stable_baselines3:{name.upper()}" for name in ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")}
)
"""Where each algorithm's class is imported from, by the name that `load_policy` takes."""

_POLICY_BASES = {
    "ppo": "stable_baselines3.common.policies:ActorCriticPolicy",
    "a2c": "stable_baselines3.common.policies:ActorCriticPolicy",
    "sac": "stable_baselines3.sac.policies:SACPolicy",
    "td3": "stable_baselines3.td3.policies:TD3Policy",
    "ddpg": "stable_baselines3.td3.policies:TD3Policy",
    "dqn": "stable_baselines3.dqn.policies:DQNPolicy",
}


def save_policy(policy: BasePolicy, policy_path: AnyPath) -> None:
    """Write a policy as one safetensors file, replaced atomically; the optimiser's state is not kept.

    Args:
        policy: any Stable-Baselines3 policy; classes this library does not know are kept by name only and have to be
            supplied on load.
        policy_path: used as it is, whatever the suffix.

    Raises:
        UnsupportedSpaceError: a space that cannot be written down.
        ConfigError: a ``state_dict`` with something else than tensors.
    """
    write_policy(policy, policy_path)


def load_saved_policy(
    path: AnyPath, device: torch.device | str = "auto", custom_objects: Mapping[str, Any] | None = None
) -> BasePolicy:
    """Read what `save_policy` wrote; nothing in the file is executed.

    Args:
        path: the file.
        device: where to put the policy; ``"auto"`` takes a GPU if there is one.
        custom_objects: by name, the classes and other values that this library does not know.

    Returns:
        The policy in evaluation mode, with a fresh optimiser at the learning rate it was saved with.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated or altered; the SHA-256 sum is always checked.
        UntrustedFileError: a pickle or a zip instead.
        ConfigError: a name missing from ``custom_objects``.
    """
    policy, _ = read_policy(path, resolve_device(device), custom_objects)
    return policy


def load_policy(policy_type: str, venv: VecEnv, **kwargs: Any) -> BasePolicy:
    """Load a policy of the given kind for these environments.

    Args:
        policy_type: ``"ppo" "sac" "td3" "a2c" "ddpg" "dqn"`` with ``path=`` (a folder or file of `save_stable_model`,
            a file of `save_policy`, or a zip with ``trust="pickle"``); ``"bundled"`` for an expert that comes with
            this library (``env_name=``, else the environments' own id); ``"random"`` (``seed=``); ``"zero"``; or a
            name in `policy_registry`.
        venv: the environments to act in.
        kwargs: for the loader.

    Raises:
        RegistryError: no loader of that name.
        SpaceMismatchError: the policy was made for other spaces.
        UntrustedFileError: reading the file would run code from it.
        CorruptFileError: truncated or altered.
    """
    policy = policy_registry.get(policy_type)(venv, **kwargs)
    if isinstance(policy, BasePolicy):
        _check_spaces(policy.observation_space, policy.action_space, venv, f"the {policy_type!r} policy")
    return policy


def load_stable_baselines_model(
    cls: type[Algorithm], path: AnyPath, venv: VecEnv, *, trust: str | None = None, **kwargs: Any
) -> Algorithm:
    """Load a whole Stable-Baselines3 model from its zip.

    Args:
        cls: the algorithm.
        path: the zip, or a folder with a ``model.zip``.
        venv: set as the model's environments.
        trust: must be ``"pickle"``, since the zip can run code when it is opened.
        kwargs: for ``cls.load``.

    Raises:
        UntrustedFileError: without ``trust="pickle"``.
        SpaceMismatchError: the model was trained on other spaces.
    """
    archive, _ = _locate(path)
    if archive is None or not archive.is_file():
        raise _nothing_at(path)
    _require_trust(archive, trust)
    saved = cls.load(archive, device="cpu")
    assert saved.observation_space is not None
    assert saved.action_space is not None
    _check_spaces(saved.observation_space, saved.action_space, venv, f"the model in {archive}")
    return cls.load(archive, env=venv, **kwargs)


def save_stable_model(output_dir: AnyPath, model: BaseAlgorithm, filename: str = "model.zip") -> None:
    """Write a model's zip, and beside it its policy without pickle.

    Args:
        output_dir: created when it is missing.
        model: any Stable-Baselines3 algorithm.
        filename: of the zip. The policy goes to ``policy.safetensors`` for ``model.zip``, and otherwise to the
            same name with the suffix ``.safetensors``.
    """
    archive = parse_path(output_dir) / filename
    buffer = io.BytesIO()
    model.save(buffer)
    write_atomically(archive, buffer.getvalue())
    env = model.get_env()
    normalizer = None if env is None else unwrap_vec_normalize(env)
    extra = {
        "zip_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "normalized_observations": normalizer is not None and normalizer.norm_obs,
    }
    write_policy(model.policy, _sidecar(archive), extra)


class SavePolicyCallback(EventCallback):
    """Saves the model each time it is called, to a folder named by the time steps so far, in 12 digits.

    Give it to SB3's ``EveryNTimesteps`` or as ``callback_on_new_best``.
    """

    def __init__(self, policy_dir: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy_dir = Path(policy_dir)

    def _on_step(self) -> bool:
        save_stable_model(self.policy_dir / f"{self.num_timesteps:012d}", self.model)
        return True


def bundled_experts() -> list[str]:
    """Ids of the environments that have a bundled expert."""
    names = (entry.name for entry in files("understudy.policies").joinpath("bundled").iterdir())
    return sorted(name.removesuffix(".safetensors").replace("__", "/") for name in names if name.endswith("tensors"))


def _load_bundled(venv: VecEnv, env_name: str | None = None, device: torch.device | str = "auto") -> BasePolicy:
    name = env_name if env_name is not None else _env_id(venv)
    if name not in bundled_experts():
        raise ConfigError(
            f"an environment with a bundled expert: {', '.join(bundled_experts())}",
            repr(name),
            "pass env_name=, or load an expert of your own with load_policy('ppo', venv, path=...)",
        )
    entry = files("understudy.policies").joinpath("bundled", f"{name.replace('/', '__')}.safetensors")
    with as_file(entry) as path:
        return load_saved_policy(path, device)


def _from_the_hub(venv: VecEnv, **kwargs: Any) -> BasePolicy:
    raise ConfigError(
        "a policy on this machine: this version does not load from the Hugging Face hub",
        f"{', '.join(f'{name}={value!r}' for name, value in sorted(kwargs.items())) or 'no options'}",
        f"use load_policy('bundled', venv) for {', '.join(bundled_experts())}, or download the zip yourself and pass "
        "path= and, if you trust its maker, trust='pickle'",
    )


def _env_id(venv: VecEnv) -> str | None:
    spec = venv.get_attr("spec", 0)[0]
    return None if spec is None else str(spec.id)


def _stable_baselines_loader(algo: str) -> PolicyLoaderFn:
    def load(
        venv: VecEnv,
        path: AnyPath,
        *,
        trust: str | None = None,
        device: torch.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
    ) -> BasePolicy:
        archive, sidecar = _locate(path)
        if sidecar.is_file():
            policy, extra = read_policy(sidecar, resolve_device(device), custom_objects)
            if _belongs(archive, extra):
                _check_policy(policy, algo, sidecar)
                _check_normalization(extra, venv, sidecar)
                return policy
        if archive is None or not archive.is_file():
            raise _nothing_at(path)
        _require_trust(archive, trust)
        model = load_attr(STABLE_BASELINES_CLASSES[algo]).load(archive, device=device, custom_objects=custom_objects)
        model.policy.set_training_mode(False)
        loaded: BasePolicy = model.policy
        return loaded

    return load


def _locate(path: AnyPath) -> tuple[Path | None, Path]:
    """The model's zip, if the path leads to one, and the pickle-free policy."""
    given = parse_path(path)
    if given.is_dir():
        return given / "model.zip", given / "policy.safetensors"
    if given.suffix == ".zip":
        return given, _sidecar(given)
    return None, given


def _nothing_at(path: AnyPath) -> MissingFileError:
    return MissingFileError(
        f"a saved policy or model at {parse_path(path)}", "nothing there", "check the path and the working directory"
    )


def _sidecar(archive: Path) -> Path:
    return archive.with_name("policy.safetensors" if archive.name == "model.zip" else f"{archive.stem}.safetensors")


def _belongs(archive: Path | None, extra: Mapping[str, Any]) -> bool:
    """False if the zip was replaced after the policy beside it was written."""
    recorded = extra.get("zip_sha256")
    if recorded is None or archive is None or not archive.is_file():
        return True
    return bool(recorded == hashlib.sha256(archive.read_bytes()).hexdigest())


def _require_trust(archive: Path, trust: str | None) -> None:
    if trust is not None and trust != "pickle":
        raise ConfigError("trust='pickle' or no trust=", f"trust={trust!r}", "write trust='pickle' if you mean it")
    if trust is None:
        raise UntrustedFileError(
            "a policy without pickle, up to date, beside the Stable-Baselines3 zip",
            f"only {archive}, which can run code when it is opened",
            "pass trust='pickle' if you know who made it; save_stable_model then writes it in both forms",
        )


def _check_policy(policy: BasePolicy, algo: str, path: Path) -> None:
    base = load_attr(_POLICY_BASES[algo])
    if not isinstance(policy, base):
        raise ConfigError(
            f"a policy of {algo.upper()} (a {base.__name__}) in {path}",
            f"a {type(policy).__name__}",
            "name the algorithm that trained it, or use load_saved_policy for any policy",
        )


def _check_normalization(extra: Mapping[str, Any], venv: VecEnv, path: Path) -> None:
    if extra.get("normalized_observations") and unwrap_vec_normalize(venv) is None:
        raise ConfigError(
            f"environments wrapped in VecNormalize, as for the policy in {path}",
            "environments with raw observations",
            "wrap them in a VecNormalize with the statistics of training",
        )


def _check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any], venv: VecEnv, what: str) -> None:
    same_obs = policy_sees(observation_space, venv.observation_space)
    if not (same_obs and action_space == venv.action_space):
        raise SpaceMismatchError(
            f"environments with the spaces of {what}: observations {observation_space}, actions {action_space}",
            f"observations {venv.observation_space}, actions {venv.action_space}",
            "load the policy that was made for this environment, or make the environment it was made for",
        )


policy_registry.register("random", build_loader_fn_require_space(RandomPolicy))
policy_registry.register("zero", build_loader_fn_require_space(ZeroPolicy))
policy_registry.register("bundled", _load_bundled)
for _algo in STABLE_BASELINES_CLASSES:
    policy_registry.register(_algo, _stable_baselines_loader(_algo))
    policy_registry.register(f"{_algo}-huggingface", _from_the_hub)
