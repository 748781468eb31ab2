"""One policy, one safetensors file.

The header's metadata has a single entry, ``understudy``: JSON text with the policy's spec (see ``_spec``), the names
of tensors that share memory (``aliases``), and ``sha256`` over that text, with zeros in the sum's own place, and
over every tensor's name, type, shape and bytes. A changed bit anywhere is an error, never a policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from stable_baselines3.common.policies import BasePolicy

from understudy.errors import ConfigError, CorruptFileError, UntrustedFileError
from understudy.policies._spec import largest_width, policy_from_spec, policy_to_spec
from understudy.util.files import write_atomically
from understudy.util.paths import AnyPath, parse_path

_KEY = "understudy"
_BLANK = "0" * 64


def write_policy(policy: BasePolicy, path: AnyPath, extra: Mapping[str, Any] | None = None) -> None:
    """Write the file atomically; ``extra`` (plain values) is kept beside the spec."""
    tensors, aliases = _unique_tensors(policy)
    document = {**policy_to_spec(policy), "aliases": aliases, "extra": dict(extra or {}), "sha256": _BLANK}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    text = text.replace(_BLANK, _digest(text, tensors))
    write_atomically(path, safetensors.torch.save(tensors, metadata={_KEY: text}))


def read_policy(
    path: AnyPath, device: torch.device | str = "cpu", custom_objects: Mapping[str, Any] | None = None
) -> tuple[BasePolicy, dict[str, Any]]:
    """The policy, in evaluation mode, and what was written beside it.

    Raises:
        FileNotFoundError: no such file.
        CorruptFileError: truncated, altered, or not a policy of this library.
        UntrustedFileError: a pickle.
        ConfigError: a name that ``custom_objects`` has to supply.
    """
    file = parse_path(path)
    content = file.read_bytes()
    if content[:2] == b"PK" or content[:1] == b"\x80":
        raise UntrustedFileError(
            "a safetensors file",
            f"{file}, a zip archive or pickle, which could run code when read",
            "load it with the program that wrote it and save it again with save_policy; "
            "for a zip of Stable-Baselines3 use load_policy(..., trust='pickle')",
        )
    try:
        document, tensors = _parse(content)
        if largest_width(document) > max((size for t in tensors.values() for size in t.shape), default=0):
            raise ValueError("the spec asks for layers that the tensors do not have")
        policy = policy_from_spec(document, custom_objects)
        _fill(policy, {**tensors, **{name: tensors[source] for name, source in document["aliases"].items()}})
        extra = dict(document["extra"])
    except CorruptFileError as err:
        raise CorruptFileError(f"{err.expected} in {file}", err.got, err.do) from err
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as err:
        if isinstance(err, ConfigError):
            raise
        raise CorruptFileError(
            f"a policy file of this library at {file}",
            f"{type(err).__name__}: {err}",
            "restore the file from a copy, or save the policy again",
        ) from err
    policy.to(device)
    policy.set_training_mode(False)
    return policy, extra


def _unique_tensors(policy: BasePolicy) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and for further names of the same one the name it is stored under."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    for name, value in policy.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                "a state_dict of tensors", f"{name} of type {type(value).__name__}", "drop the extra state"
            )
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() > 0 and identity in first_name:
            aliases[name] = first_name[identity]
            continue
        first_name[identity] = name
        tensors[name] = value.detach().cpu().contiguous().clone()
    return tensors, aliases


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The document and the tensors, verified."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise ValueError("the file ends before its header does")
    header = content[8 : 8 + size]
    if any(each in header for each in (b"\t", b"\r", b"\n")):
        raise ValueError("white space that this library does not write")
    try:
        text = json.loads(header)["__metadata__"][_KEY]
        document = json.loads(text)
    except RecursionError as err:
        raise ValueError("the header is nested too deeply") from err
    tensors = safetensors.torch.load(content)
    recorded = document["sha256"]
    if not isinstance(recorded, str) or len(recorded) != 64:
        raise ValueError("no SHA-256 sum")
    if _digest(text.replace(recorded, _BLANK), tensors) != recorded:
        raise ValueError("its SHA-256 sum does not match: the file was altered")
    return document, tensors


def _fill(policy: BasePolicy, state: Mapping[str, torch.Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        policy.to(dtypes.pop())  # after `.double()` or `.half()`: copying would cast silently
    policy.load_state_dict(dict(state), strict=True)
