"""A whole Stable-Baselines3 model from its zip, ready to learn on, without running the zip's pickles."""

from __future__ import annotations

import base64
import binascii
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, CorruptFileError
from understudy.policies._inert_arrays import number_of
from understudy.policies._inert_pickle import Call, MalformedPickleError, read_inert
from understudy.policies._rebuild import completed, policy_arguments, rebuild_policy
from understudy.policies._schedules import MAX_RATE, first_rate, read_schedule
from understudy.policies._stable_zip import SERIALIZED, StableZip, is_pickled
from understudy.util.image_spaces import ordered_like

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)

_NOT_TAKEN = frozenset(
    # The first five are given otherwise. `tensorboard_log` is a path to write to, which no file may choose; with
    # `seed` the constructor would reseed every global generator of the process.
    ["policy", "env", "policy_kwargs", "device", "_init_setup_model", "tensorboard_log", "seed", "monitor_wrapper"]
)
_SCHEDULES = frozenset(["learning_rate", "clip_range", "clip_range_vf", "delta_std"])
_COUNTERS = ("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls")
_USUAL_CLASSES = frozenset(
    ["RolloutBuffer", "DictRolloutBuffer", "ReplayBuffer", "DictReplayBuffer"]
    + [f"{kind}{data}RolloutBuffer" for kind in ("Maskable", "Recurrent") for data in ("", "Dict")]
)
_LARGEST = 1_000_000_000
_LONGEST_PICKLE = 4096
_LARGEST_BUFFER = 100_000_000


def rebuild_model(
    cls: type[Algorithm],
    model: StableZip,
    venv: VecEnv,
    custom_objects: Mapping[str, Any] | None,
    device: torch.device | str,
    options: Mapping[str, Any],
) -> Algorithm:
    """The model with its parameters, its optimisers' states and its counters.

    Args:
        cls: the algorithm.
        model: what was read, the optimisers' states too.
        venv: set as its environments.
        custom_objects: as for `rebuild_policy`.
        device: where to put it.
        options: for the constructor, in place of what the zip says.

    Warns:
        UserWarning: options of training that the zip holds only in pickles; the class's own defaults stand for them.
    """
    custom = custom_objects or {}
    policy = rebuild_policy(model, custom, venv.observation_space, venv.action_space)
    taken, lost = _options(cls, model, {**custom, **options})
    if lost:
        warnings.warn(
            f"{model.path} holds {', '.join(lost)} only in pickles, which were not run: {cls.__name__}'s defaults are "
            f"used. Pass them as keywords ({lost[0]}=...) to learn on as before.",
            stacklevel=3,
        )
    arguments = policy_arguments(model, custom, any_optimizer=False)
    try:
        with torch.random.fork_rng(devices=[]):
            taken |= {"_init_setup_model": False}  # its networks are made below, for keys in the order of the file
            built = cls(policy=type(policy), env=venv, policy_kwargs=arguments, device=device, **taken)
            built.observation_space = ordered_like(built.observation_space, policy.observation_space)
            built._setup_model()
        _fill(built, model)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError, MemoryError) as err:
        if isinstance(err, ConfigError | CorruptFileError):
            raise
        raise CorruptFileError(
            f"a model of {cls.__name__} in {model.path}",
            f"{type(err).__name__}: {' '.join(str(err).split())}"[:400],
            "name the algorithm that trained it; trust='pickle' loads it with Stable-Baselines3 itself",
        ) from err
    for name in _COUNTERS:
        value = model.data.get(name)
        if type(value) is int and hasattr(built, name):
            setattr(built, name, value)
    if type(model.data.get("seed")) is int:
        built.seed = model.data["seed"]
    rate = model.data.get("exploration_rate")
    if isinstance(rate, float) and hasattr(built, "exploration_rate"):
        built.exploration_rate = rate
    return built


def _options(cls: type[BaseAlgorithm], model: StableZip, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the constructor gets, and the names of what could not be read."""
    parameters = inspect.signature(cls).parameters
    unknown = [name for name in given if name in _NOT_TAKEN - {"tensorboard_log", "seed"} and name != "policy_kwargs"]
    if unknown:
        raise ConfigError("keywords of training", f"{unknown[0]}=", "leave it out: the zip and the arguments say it")
    taken: dict[str, Any] = {}
    lost: list[str] = []
    for name, parameter in parameters.items():
        if name in given and name != "policy_kwargs":
            taken[name] = given[name]
        elif name not in _NOT_TAKEN:
            entry = model.data.get("_stats_window_size" if name == "stats_window_size" else name)
            if entry is None:
                continue
            value = _option(name, entry, model)
            if value is not None:
                taken[name] = value
            elif not _is_usual(name, entry) and entry != parameter.default:
                lost.append(name)
    if "learning_rate" not in given and not isinstance(taken.get("learning_rate"), float):
        schedule = taken.get("learning_rate")
        if schedule is not None and not 0 < schedule(1.0) <= MAX_RATE:
            taken["learning_rate"] = first_rate(model.data, model.budget)
    elif "learning_rate" not in given and not 0 < taken["learning_rate"] <= MAX_RATE:
        taken["learning_rate"] = first_rate(model.data, model.budget)  # a cloned policy may carry a placeholder of 3e38
    return taken, lost


def _option(name: str, entry: Any, model: StableZip) -> Any:
    """A value of training, or None if it stands only in a pickle."""
    if name in _SCHEDULES:
        found = read_schedule(entry, model.budget)
        if found is None and name == "learning_rate":
            found = read_schedule(model.data.get("lr_schedule"), model.budget)
        return found
    if name == "train_freq" and is_pickled(entry):
        return _train_frequency(entry)
    if is_pickled(entry) and str(entry.get(":type:")).startswith("<class 'numpy."):
        entry = _pickled_number(entry)
    if isinstance(entry, bool):
        return entry
    if isinstance(entry, int | float):
        limit = _LARGEST_BUFFER if name in {"buffer_size", "n_steps"} else _LARGEST
        if not math.isfinite(entry) or abs(entry) > limit:
            raise CorruptFileError(
                f"{name} of at most {limit} in {model.path}", str(entry)[:40], f"pass {name}= yourself"
            )
        return entry
    if isinstance(entry, str) and len(entry) < 40 and name in {"ent_coef", "target_entropy"}:
        return entry
    return None


def _is_usual(name: str, entry: Any) -> bool:
    """Whether the default means the same: SB3's own buffers, chosen by the spaces, and empty options."""
    if entry == {} or entry == []:
        return True
    if name.endswith("_class") and isinstance(entry, Mapping):
        return any(str(value).startswith(f"<function {usual}.") for value in entry.values() for usual in _USUAL_CLASSES)
    return False


def _train_frequency(entry: Mapping[str, Any]) -> tuple[int, str] | None:
    """Two plain values without text beside them, taken out of the pickle as data."""
    found = _as_data(entry)
    if isinstance(found, Call) and found.name.endswith(".TrainFreq") and len(found.arguments) == 2:
        frequency, unit = found.arguments
        name = unit.arguments[0] if isinstance(unit, Call) and unit.arguments else None
        if type(frequency) is int and 0 < frequency < _LARGEST and name in ("step", "episode"):
            return frequency, name
    return None


def _pickled_number(entry: Mapping[str, Any]) -> float | None:
    try:
        return number_of(_as_data(entry))
    except ValueError:
        return None


def _as_data(entry: Mapping[str, Any]) -> Any:
    text = entry[SERIALIZED]
    if not isinstance(text, str) or len(text) > _LONGEST_PICKLE:
        return None
    try:
        return read_inert(base64.b64decode(text, validate=True))
    except (MalformedPickleError, binascii.Error):
        return None


def _fill(built: BaseAlgorithm, model: StableZip) -> None:
    parameters = dict(model.parameters)
    parameters["policy"] = completed(model.policy, built.policy)
    for name, state in parameters.items():
        if name != "policy":
            _check_optimizer(built, name, state)
    built.set_parameters(parameters, exact_match=True, device=built.device)
    for name, value in model.variables.items():
        current = getattr(built, name, None) if name in {"log_ent_coef", "ent_coef_tensor"} else None
        if isinstance(value, torch.Tensor) and isinstance(current, torch.Tensor):
            current.data = value.reshape(current.shape).to(current.device)
    rate = built.lr_schedule(1.0)
    for name in parameters:
        owner, _, attribute = name.rpartition(".")
        optimizer = getattr(getattr(built, owner, built), attribute, None) if name != "policy" else None
        for group in getattr(optimizer, "param_groups", []):
            if not (math.isfinite(group["lr"]) and 0 < group["lr"] <= MAX_RATE):
                group["lr"] = rate
    if built.use_sde:
        built.policy.reset_noise()  # type: ignore[operator]


def _check_optimizer(built: BaseAlgorithm, name: str, state: Any) -> None:
    owner: Any = built
    for part in name.split("."):
        owner = (
            getattr(owner, part, None)
            if part in {"policy", "actor", "critic", "optimizer", "ent_coef_optimizer"}
            else None
        )
    if not isinstance(owner, torch.optim.Optimizer) or not isinstance(state, dict):
        raise ValueError(f"a state for {name!r}, which {type(built).__name__} does not have")
    groups = state["param_groups"]
    saved, own = groups[0]["params"], owner.param_groups[0]["params"]
    if len(groups) == 1 and len(saved) == 2 * len(own):  # DQN before 2.4 listed the target network too
        groups[0]["params"] = saved[: len(own)]
    parameters = [each for group in owner.param_groups for each in group["params"]]
    indices = [index for group in groups for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=False):
        for value in state["state"].get(index, {}).values():
            if isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise ValueError(f"a state of {name!r} of shape {tuple(value.shape)} for {tuple(parameter.shape)}")
