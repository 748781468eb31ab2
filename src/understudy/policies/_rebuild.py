"""A policy from a Stable-Baselines3 zip: its class and arguments from plain text, its spaces from the environments."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule

from understudy.errors import ConfigError, CorruptFileError, MissingExtraError, SpaceMismatchError
from understudy.policies._names import place_of_part, place_of_policy
from understudy.policies._plain_text import ClassName, Construction, Opaque, UnreadableTextError, parse
from understudy.policies._schedules import first_rate
from understudy.policies._space_text import SpaceText, disagreement, in_order_of, read_space_text, space_from_text
from understudy.policies._spec import accepts
from understudy.policies._stable_zip import StableZip, is_pickled
from understudy.util.build_budget import AllocationBudget, TooLargeError
from understudy.util.image_spaces import channels_first, policy_sees, same_space
from understudy.util.module_tensors import fill
from understudy.util.registry import load_attr

_FUNCTION = re.compile(r"<function (\w{1,100})\.\w{1,100} at 0x[0-9a-f]{1,16}>")
_NUMPY_NUMBERS = frozenset(f"np.{kind}" for kind in ("float64", "float32", "int64", "int32", "bool", "bool_", "str_"))
_SEPARATE = ("pi_features_extractor.", "vf_features_extractor.")


def rebuild_policy(
    model: StableZip,
    custom_objects: Mapping[str, Any] | None,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
) -> BasePolicy:
    """The policy on the CPU, in evaluation mode, with a fresh optimiser.

    Args:
        model: what was read.
        custom_objects: what the zip's text does not tell: by the name of an entry (``"policy_class"``,
            ``"policy_kwargs"``), of an argument (``"features_extractor_class"``, ``"activation_fn"``), or of a class.
        observation_space: of the environments; from the text where it is None.
        action_space: likewise.

    Raises:
        ConfigError: something is missing that ``custom_objects`` has to supply.
        SpaceMismatchError: it was trained on other spaces.
        CorruptFileError: its tensors do not fit what it says.
    """
    custom = custom_objects or {}
    if "policy_class" not in custom:
        _refuse_shared_layers(model)
    cls = policy_class(model, custom)
    arguments = policy_arguments(model, custom)
    if accepts(cls, "use_sde") and isinstance(model.data.get("use_sde"), bool):
        arguments["use_sde"] = model.data["use_sde"]
    if accepts(cls, "lr_schedule"):
        arguments["lr_schedule"] = ConstantSchedule(first_rate(model.data, model.budget))
    arguments["observation_space"] = _space(model, "observation_space", observation_space, custom)
    arguments["action_space"] = _space(model, "action_space", action_space, custom)
    try:
        # The weights that a constructor draws are overwritten: the caller's generator stays where it was.
        with torch.random.fork_rng(devices=[]), AllocationBudget(model.policy.values()):
            policy: BasePolicy = cls(**arguments)
        fill(policy, completed(model.policy, policy))
    except TooLargeError as err:
        raise _no_fit(model, str(err)) from err
    except (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, RuntimeError) as err:
        if isinstance(err, ConfigError | CorruptFileError):
            raise
        raise _no_fit(model, f"{type(err).__name__}: {' '.join(str(err).split())}") from err
    policy.set_training_mode(False)
    return policy


def policy_class(model: StableZip, custom: Mapping[str, Any]) -> type[BasePolicy]:
    """The class that ``policy_class`` shows, if it is one of those this library lists."""
    if "policy_class" in custom:
        given: type[BasePolicy] = custom["policy_class"]
        return given
    entry = model.data.get("policy_class")
    values = [str(value) for key, value in entry.items() if key[:1] != ":"] if isinstance(entry, Mapping) else []
    names = {match[1] for match in map(_FUNCTION.fullmatch, values) if match}
    module = " ".join(str(entry.get("__module__", ""))[:200].split()) if isinstance(entry, Mapping) else ""
    name = names.pop() if len(names) == 1 else ""
    if name in custom:
        named: type[BasePolicy] = custom[name]
        return named
    place = place_of_policy(module, name)
    if place is None:
        raise _missing(model, "policy_class", f"{module}.{name or '?'}", "a policy's class")
    try:
        found: type[BasePolicy] = load_attr(place)
    except ModuleNotFoundError as err:
        raise MissingExtraError("sb3-contrib", "contrib") from err
    return found


def policy_arguments(model: StableZip, custom: Mapping[str, Any], *, any_optimizer: bool = True) -> dict[str, Any]:
    """``policy_kwargs`` with each class looked up; with ``any_optimizer`` Adam stands for an unknown optimiser."""
    if "policy_kwargs" in custom:
        return dict(custom["policy_kwargs"])
    entry = model.data.get("policy_kwargs") or {}
    if not isinstance(entry, Mapping):
        raise _no_fit(model, f"policy_kwargs of type {type(entry).__name__}")
    shown = is_pickled(entry)
    arguments = {}
    for key, value in entry.items():
        if key[:1] == ":" or key == "device":
            continue
        try:
            arguments[key] = custom[key] if key in custom else _value(model, key, value, custom, shown)
        except ConfigError:
            if not (key in {"optimizer_class", "optimizer_kwargs"} and any_optimizer):
                raise
    for key in custom.keys() & {"features_extractor_class", "features_extractor_kwargs", "activation_fn"}:
        arguments.setdefault(key, custom[key])
    if any_optimizer and "optimizer_class" not in arguments:  # a policy acts without one
        arguments.pop("optimizer_kwargs", None)
    net_arch = arguments.get("net_arch")
    if isinstance(net_arch, list) and net_arch and isinstance(net_arch[0], dict):  # before Stable-Baselines3 1.8
        arguments["net_arch"] = net_arch[0]
    if arguments.get("sde_net_arch") is not None:
        raise ConfigError(
            f"arguments that today's policies take in {model.path}",
            "sde_net_arch, which Stable-Baselines3 dropped in 1.8",
            "train it again without; trust='pickle' does not help",
        )
    # None says that a keyword was not used, also one that is no more, such as sde_net_arch.
    cls = policy_class(model, custom)
    return {key: value for key, value in arguments.items() if value is not None or accepts(cls, key)}


def completed(state: Mapping[str, torch.Tensor], policy: BasePolicy) -> dict[str, torch.Tensor]:
    """With the names that Stable-Baselines3 gives a shared extractor since 1.7, for models from before."""
    names = policy.state_dict().keys()
    if any(name.startswith(_SEPARATE) for name in state) or not getattr(policy, "share_features_extractor", False):
        return dict(state)
    added = {name: state[name[3:]] for name in names if name.startswith(_SEPARATE) and name[3:] in state}
    return {**state, **added}


def _refuse_shared_layers(model: StableZip) -> None:
    """Before 1.8, layers for actor and critic together could precede those of each: ``[64, {"pi": [64]}]``."""
    name = next((name for name in model.policy if name.startswith("mlp_extractor.shared_net.")), None)
    entry = model.data.get("policy_kwargs")
    net_arch = entry.get("net_arch") if isinstance(entry, Mapping) else None
    if name is not None or (isinstance(net_arch, list) and any(isinstance(each, Mapping) for each in net_arch[1:])):
        raise ConfigError(
            f"a network in {model.path} whose actor and critic have layers of their own",
            f"layers that both share ({name or 'net_arch'}), which Stable-Baselines3 dropped in 1.8; the zip is of "
            f"version {model.version}",
            "train it again, or record demonstrations with a version before 1.8; trust='pickle' does not help. If you "
            "have a policy class with such layers, pass custom_objects={'policy_class': ...}",
        )


def _value(model: StableZip, key: str, value: Any, custom: Mapping[str, Any], shown: bool) -> Any:
    if not shown or not isinstance(value, str):
        return value
    if key.endswith(("_fn", "_class")) and not value.startswith("<class "):
        raise _missing(model, key, value, "a class in the policy's arguments")
    if value[:1] not in "<{[(" and not re.fullmatch(r"[-+\d.einfa]+|functools\..*", value):
        return value  # ordinary text
    try:
        parsed = parse(value, model.budget)
    except UnreadableTextError:
        raise _missing(model, key, value, "an argument of the policy") from None
    return _resolved(model, key, parsed, custom)


def _resolved(model: StableZip, key: str, parsed: Any, custom: Mapping[str, Any]) -> Any:
    if isinstance(parsed, dict):
        return {
            name: custom[name] if name in custom else _resolved(model, f"{key}[{name!r}]", each, custom)
            for name, each in parsed.items()
        }
    if isinstance(parsed, list | tuple):
        return type(parsed)(_resolved(model, key, each, custom) for each in parsed)
    if isinstance(parsed, ClassName):
        short = parsed.path.rpartition(".")[2]
        for name in (parsed.path, short):
            if name in custom:
                return custom[name]
        place = place_of_part(parsed.path)
        if place is None:
            raise _missing(model, key, parsed.path, "a class in the policy's arguments")
        return load_attr(place)
    if isinstance(parsed, Construction) and parsed.name in _NUMPY_NUMBERS and len(parsed.arguments) == 1:
        return _resolved(model, key, parsed.arguments[0], custom)  # np.float64(1e-05), as NumPy 2 writes it
    if parsed is None or isinstance(parsed, bool | int | float | str):
        return parsed
    text = parsed.text if isinstance(parsed, Opaque) else getattr(parsed, "name", type(parsed).__name__)
    raise _missing(model, key, text, "an argument of the policy")


def _space(model: StableZip, name: str, given: gym.Space[Any] | None, custom: Mapping[str, Any]) -> gym.Space[Any]:
    """The space that the policy is built with; a Dict has its keys in the order of the file, whoever else tells it."""
    text = read_space_text(model.data.get(name), model.budget)
    if name in custom:
        return _own_space(model, name, copy.deepcopy(custom[name]), text, given)
    if given is None:
        return space_from_text(text, name, exact_bounds=name == "action_space")
    given = copy.deepcopy(given)  # a policy may sample its space, which moves that space's generator
    if isinstance(given, gym.spaces.Dict) and len(given.spaces) > 1 and not (text is not None and text.parts):
        raise ConfigError(
            f"the order of the {name}'s keys in {model.path}, in which the policy joins their entries",
            "no text that tells it",
            f"pass custom_objects={{{name!r}: gymnasium.spaces.Dict([(key, space), ...])}} in the order of training",
        )
    if text is None:
        return channels_first(given) if name == "observation_space" else given
    given = in_order_of(text, given)
    candidates = [given] if name == "action_space" else [given, channels_first(given)]
    reasons = [disagreement(text, candidate) for candidate in candidates]
    for candidate, reason in zip(candidates[::-1], reasons[::-1], strict=True):
        if not reason:
            return candidate
    raise SpaceMismatchError(
        f"the {name} that the model in {model.path} was trained on: {reasons[0]}",
        f"environments with {given}",
        "load the policy that was made for this environment, or make the environment it was made for; if they are the "
        f"same after all, pass custom_objects={{{name!r}: venv.{name}}}",
    )


def _own_space(
    model: StableZip, name: str, own: gym.Space[Any], text: SpaceText | None, given: gym.Space[Any] | None
) -> gym.Space[Any]:
    """The caller's own space, which counts for more than the file's text, except for the order of keys."""
    if given is not None and not (same_space(own, given) or policy_sees(own, given)):
        raise SpaceMismatchError(
            f"custom_objects[{name!r}] of the environments for the model in {model.path}: {given}",
            f"{own}",
            f"pass custom_objects={{{name!r}: venv.{name}}}",
        )
    turned = channels_first(own) if name == "observation_space" else own
    if text is None:
        return own if given is None else turned
    agreeing = [space for space in (turned, own) if not disagreement(text, space)]
    return in_order_of(text, agreeing[0] if agreeing else turned)


def _missing(model: StableZip, key: str, what: str, kind: str) -> ConfigError:
    entry = key.partition("[")[0]
    return ConfigError(
        f"{kind} that this library knows in {model.path}",
        f"{key} = {what[:120]}, of which the zip has only the name outside its pickles",
        f"pass custom_objects={{{entry!r}: ...}} with what it was, or trust='pickle' if you know who made the file",
    )


def _no_fit(model: StableZip, reason: str) -> CorruptFileError:
    return CorruptFileError(
        f"tensors and plain text in {model.path} that describe the same policy",
        reason[:400],
        f"check the versions (it was written by Stable-Baselines3 {model.version}); custom_objects= can replace "
        "'policy_class' or 'policy_kwargs', and trust='pickle' loads it with Stable-Baselines3 itself",
    )
