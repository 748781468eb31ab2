"""One reward network, one sealed safetensors file: its tensors, and its spec (`_spec`) as the document beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from understudy.errors import ConfigError, CorruptFileError, UntrustedFileError
from understudy.rewards._spec import net_from_spec, net_to_spec
from understudy.rewards.reward_nets import RewardNet, ShapedRewardNet
from understudy.util.build_budget import AllocationBudget, check_space_size
from understudy.util.module_tensors import fill, unique_tensors
from understudy.util.paths import AnyPath, parse_path
from understudy.util.sealed import read_sealed, write_sealed
from understudy.util.value_json import shown
from understudy.util.versions import library_versions

FORMAT_VERSION = 1


def write_net(net: RewardNet, path: AnyPath) -> None:
    """Write the file atomically.

    Raises:
        ConfigError: the constructor's arguments do not describe the network.
        UnsupportedSpaceError: a space that cannot be written down.
    """
    tensors, aliases = unique_tensors(net)
    spec = net_to_spec(net)
    _check_described(net, spec)
    document = {"format": FORMAT_VERSION, "reward_net": spec, "aliases": aliases, "versions": library_versions()}
    write_sealed(path, document, tensors)


def read_net(
    path: AnyPath, device: torch.device, custom_objects: Mapping[str, Any] | None, no_potential: Any = None
) -> RewardNet:
    """The network, in evaluation mode.

    Args:
        path: the file.
        device: where to put it.
        custom_objects: what the file names and this library does not know.
        no_potential: stands in for a potential that is not supplied; its tensors are left out.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated, altered, or no reward network of this library; also one whose spec asks for more
            than its tensors could fill, which is found before anything of that size is made.
        UntrustedFileError: a pickle.
        ConfigError: a name that ``custom_objects`` has to supply.
    """
    file = parse_path(path)
    custom = {**({} if no_potential is None else {"potential": no_potential}), **(custom_objects or {})}
    try:
        document, tensors = read_sealed(file)
        spec = document["reward_net"]
        if document["format"] != FORMAT_VERSION:
            raise CorruptFileError(
                f"a reward network of format {FORMAT_VERSION}",
                f"format {shown(document['format'])}, written with {shown(document.get('versions'))}",
                "install the version of understudy that wrote the file, or a later one",
            )
        check_space_size(spec, tensors.values())
        with torch.random.fork_rng(devices=[]), AllocationBudget(tensors.values()):
            net = net_from_spec(spec, custom)
        state = {**tensors, **{name: tensors[source] for name, source in document["aliases"].items()}}
        if no_potential is not None:
            state = _without_potential(net, state, no_potential)
        fill(net, state)
    except CorruptFileError as err:
        raise CorruptFileError(f"{err.expected} in {file}", err.got, err.do) from err
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, MemoryError) as err:
        if isinstance(err, ConfigError | UntrustedFileError):
            raise
        raise CorruptFileError(
            f"a reward network of this library at {file}",
            f"{type(err).__name__}: {' '.join(str(err).split())[:400]}",
            "restore the file from a copy, or save the network again with save_reward_net",
        ) from err
    return net.to(device).eval()


def _without_potential(net: RewardNet, state: dict[str, torch.Tensor], stand_in: Any) -> dict[str, torch.Tensor]:
    shaped = (
        (name, module)
        for name, module in net.named_modules(remove_duplicate=False)
        if isinstance(module, ShapedRewardNet)
    )
    dropped = tuple(f"{name}.potential.".lstrip(".") for name, module in shaped if module.potential is stand_in)
    return {name: tensor for name, tensor in state.items() if not (dropped and name.startswith(dropped))}


def _check_described(net: RewardNet, spec: dict[str, Any]) -> None:
    """Build the network from its spec and compare the tensors' names and shapes."""
    try:
        with torch.random.fork_rng(devices=[]):
            again = net_from_spec(json.loads(json.dumps(spec)), {})
    except CorruptFileError as err:
        raise _not_described(net, err.got) from err
    except ConfigError:
        return  # of classes or values that only the caller knows
    own, built = ({name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (net, again))
    for name in {**own, **built}:
        if own.get(name) != built.get(name):
            raise _not_described(net, f"{name}: {own.get(name)}, but {built.get(name)} when built again")


def _not_described(net: RewardNet, got: str) -> ConfigError:
    return ConfigError(
        f"a {type(net).__name__} that its constructor's arguments describe",
        got,
        "give a class of your own to a network that was changed after it was made; it is kept by name then",
    )
