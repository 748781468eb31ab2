"""Finding, loading and saving policies.

Files are safetensors with a JSON spec. A model's zip of Stable-Baselines3 holds pickles beside its tensors; they are
not run, unless the caller writes ``trust="pickle"``: what the network was is read from the plain text beside them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EventCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from understudy.errors import ConfigError, MissingFileError, SpaceMismatchError
from understudy.policies._algorithms import (
    CONTRIB_CLASSES,
    STABLE_BASELINES_CLASSES,
    algorithm_class,
    check_algorithm,
    policy_base,
)
from understudy.policies._files import read_policy, write_policy
from understudy.policies._models import rebuild_model
from understudy.policies._rebuild import rebuild_policy
from understudy.policies._stable_zip import read_stable_zip
from understudy.policies.base import RandomPolicy, ZeroPolicy
from understudy.policies.hub import load_from_hub
from understudy.policies.vec_normalize import normalizes_observations, save_vec_normalize, statistics_beside
from understudy.util.devices import resolve_device
from understudy.util.files import write_atomically
from understudy.util.image_spaces import channels_first, ordered_like, policy_sees, same_space
from understudy.util.paths import AnyPath, parse_path
from understudy.util.registry import Registry, build_loader_fn_require_space

PolicyLoaderFn = Callable[..., BasePolicy]
"""Called with the environments and the keywords given to `load_policy`."""

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)

policy_registry: Registry[PolicyLoaderFn] = Registry()
"""Loaders by the name that `load_policy` takes; add one with ``policy_registry.register("my-policy", loader)``."""


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
        path: the file; a model's zip of Stable-Baselines3 will do where its plain text tells the spaces to the last
            bit, see `load_policy`.
        device: where to put the policy; ``"auto"`` takes a GPU if there is one.
        custom_objects: by name, the classes and other values that this library does not know.

    Returns:
        The policy in evaluation mode, with a fresh optimiser at the learning rate it was saved with.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated or altered; the SHA-256 sum is always checked.
        UntrustedFileError: a pickle instead.
        ConfigError: a name missing from ``custom_objects``.
    """
    file = parse_path(path)
    if file.suffix == ".zip" and zipfile.is_zipfile(file):
        return rebuild_policy(read_stable_zip(file, policy_only=True), custom_objects).to(resolve_device(device))
    policy, _ = read_policy(path, resolve_device(device), custom_objects)
    return policy


def load_policy(policy_type: str, venv: VecEnv, **kwargs: Any) -> BasePolicy:
    """Load a policy of the given kind for these environments.

    Args:
        policy_type: one of

            - ``"ppo" "sac" "td3" "a2c" "ddpg" "dqn"``, or sb3-contrib's ``"trpo" "qrdqn" "tqc" "crossq" "ars"
              "ppo_lstm" "ppo_mask"``, with ``path=``: a folder or file of `save_stable_model`, a file of
              `save_policy`, the zip that ``model.save`` of Stable-Baselines3 writes, or a folder ``NAME`` or
              ``NAME_1`` with a ``NAME.zip``, as RL Baselines3 Zoo has it;
            - the same with ``-huggingface``, from the hub: ``organization=``, ``env_name=`` (else the environments'
              own id), or ``repo_id=``, ``filename=``, ``revision=``, see `hub.download_from_hub`;
            - ``"bundled"`` for an expert that comes with this library (``env_name=``, else the environments' own id);
            - ``"random"`` (``seed=``), ``"zero"``, or a name in `policy_registry`.
        venv: the environments to act in.
        kwargs: for the loader: ``path=``, ``device=``; ``custom_objects=`` with classes that a file names and this
            library does not know, by the name of the argument (``{"features_extractor_class": MyCNN}``) or of the
            class; ``trust="pickle"`` to let Stable-Baselines3 itself open a zip, which can run code from it.

    Raises:
        RegistryError: no loader of that name.
        SpaceMismatchError: the policy was made for other spaces.
        ConfigError: a model of another algorithm, or made with a class that ``custom_objects`` has to supply.
        UntrustedFileError: made to do harm, or readable only by running it.
        CorruptFileError: truncated or altered.
    """
    policy = policy_registry.get(policy_type)(venv, **kwargs)
    if isinstance(policy, BasePolicy):
        _check_spaces(policy.observation_space, policy.action_space, venv, f"the {policy_type!r} policy")
    return policy


def load_stable_baselines_model(
    cls: type[Algorithm],
    path: AnyPath,
    venv: VecEnv,
    *,
    trust: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    device: torch.device | str = "auto",
    **kwargs: Any,
) -> Algorithm:
    """Load a whole Stable-Baselines3 model from its zip, to act or to learn on; by default no pickle in it is run.

    Parameters, optimisers, counters, and the options of training that are plain values or schedules of SB3's own come
    from the zip. As with SB3, a replay buffer does not.

    Args:
        cls: the algorithm.
        path: the zip, or a folder with a ``model.zip``.
        venv: set as the model's environments.
        trust: ``"pickle"`` loads with SB3's own ``cls.load``, which can run code from the file.
        custom_objects: what the zip holds only as a pickle, see `load_policy`.
        device: ``"auto"`` takes a GPU if there is one.
        kwargs: options of training in place of the zip's, such as ``learning_rate=``; with trust, for ``cls.load``.

    Warns:
        UserWarning: names options that stand only in pickles; the defaults of ``cls`` are used for them.

    Raises:
        SpaceMismatchError: the model was trained on other spaces.
        ConfigError: a class in it is unknown here, and ``custom_objects`` has none.
        CorruptFileError: damaged.
        UntrustedFileError: made to do harm.
    """
    archive, _ = _locate(path)
    if archive is None or not archive.is_file():
        raise _nothing_at(path)
    if not check_trust(trust):
        contents = read_stable_zip(archive, policy_only=False)
        return rebuild_model(cls, contents, venv, custom_objects, device, kwargs)
    given = None if custom_objects is None else dict(custom_objects)
    saved = cls.load(archive, device="cpu", custom_objects=given)
    assert saved.observation_space is not None
    assert saved.action_space is not None
    _check_spaces(saved.observation_space, saved.action_space, venv, f"the model in {archive}")
    given = given or {}  # SB3 compares more strictly, with no regard to bounds that stand for none
    theirs = ordered_like(channels_first(venv.observation_space), saved.observation_space)
    if saved.observation_space not in (theirs, venv.observation_space):
        given.setdefault("observation_space", theirs)
    if saved.action_space != venv.action_space:
        given.setdefault("action_space", venv.action_space)
    return cls.load(archive, env=venv, device=device, custom_objects=given, **kwargs)


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
    if normalizer is not None:
        save_vec_normalize(normalizer, statistics_beside(archive))


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
        trusting = check_trust(trust)
        archive, sidecar = _locate(path)
        if sidecar.is_file():
            policy, extra = read_policy(sidecar, resolve_device(device), custom_objects)
            if _belongs(archive, extra):
                _check_policy(policy, algo, sidecar)
                _check_normalization(bool(extra.get("normalized_observations")), venv, sidecar)
                return policy
        if archive is None or not archive.is_file():
            raise _nothing_at(path)
        if trusting:
            given = None if custom_objects is None else dict(custom_objects)
            model = algorithm_class(algo).load(archive, device=device, custom_objects=given)
            model.policy.set_training_mode(False)
            loaded: BasePolicy = model.policy
            return loaded
        contents = read_stable_zip(archive, policy_only=True)
        check_algorithm(contents, algo)
        _check_normalization(normalizes_observations(archive), venv, archive)
        rebuilt = rebuild_policy(contents, custom_objects, venv.observation_space, venv.action_space)
        _check_policy(rebuilt, algo, archive)
        return rebuilt.to(resolve_device(device))

    return load


def _from_the_hub(algo: str, loader: PolicyLoaderFn, venv: VecEnv, **kwargs: Any) -> BasePolicy:
    return load_from_hub(algo, venv, loader, **kwargs)


def _locate(path: AnyPath) -> tuple[Path | None, Path]:
    """The model's zip, if the path leads to one, and the pickle-free policy."""
    given = parse_path(path)
    if given.is_dir():
        model, policy = given / "model.zip", given / "policy.safetensors"
        if not (model.is_file() or policy.is_file()):  # RL Baselines3 Zoo: NAME_1/NAME.zip
            for name in (given.name, re.sub(r"_\d+$", "", given.name)):
                if (given / f"{name}.zip").is_file():
                    return given / f"{name}.zip", _sidecar(given / f"{name}.zip")
        return model, policy
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


def check_trust(trust: str | None) -> bool:
    """Whether pickles may be run; anything but ``"pickle"`` and None is an error."""
    if trust is not None and trust != "pickle":
        raise ConfigError("trust='pickle' or no trust=", f"trust={trust!r}", "write trust='pickle' if you mean it")
    return trust is not None


def _check_policy(policy: BasePolicy, algo: str, path: Path) -> None:
    base = policy_base(algo)
    if not isinstance(policy, base):
        raise ConfigError(
            f"a policy of {algo.upper()} (a {base.__name__}) in {path}",
            f"a {type(policy).__name__}",
            "name the algorithm that trained it, or use load_saved_policy for any policy",
        )


def _check_normalization(normalized: bool, venv: VecEnv, path: Path) -> None:
    if normalized and unwrap_vec_normalize(venv) is None:
        raise ConfigError(
            f"environments wrapped in VecNormalize, as for the policy in {path}",
            "environments with raw observations",
            "wrap them: venv = understudy.policies.vec_normalize.load_vec_normalize("
            f"{str(path.with_suffix('.zip'))!r}, venv), which takes the statistics beside that name",
        )


def _check_spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any], venv: VecEnv, what: str) -> None:
    same_obs = policy_sees(observation_space, venv.observation_space)
    if not (same_obs and same_space(action_space, venv.action_space)):
        raise SpaceMismatchError(
            f"environments with the spaces of {what}: observations {observation_space}, actions {action_space}",
            f"observations {venv.observation_space}, actions {venv.action_space}",
            "load the policy that was made for this environment, or make the environment it was made for; "
            "custom_objects={'observation_space': ..., 'action_space': ...} replaces what a model's zip says",
        )


policy_registry.register("random", build_loader_fn_require_space(RandomPolicy))
policy_registry.register("zero", build_loader_fn_require_space(ZeroPolicy))
policy_registry.register("bundled", _load_bundled)
for _algo in (*STABLE_BASELINES_CLASSES, *CONTRIB_CLASSES):
    _loader = _stable_baselines_loader(_algo)
    policy_registry.register(_algo, _loader)
    policy_registry.register(f"{_algo}-huggingface", functools.partial(_from_the_hub, _algo, _loader))
