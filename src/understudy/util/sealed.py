"""One safetensors file with a JSON document, sealed by a digest.

The header's metadata has a single entry, ``understudy``: the document's text, in which ``sha256`` is taken over that
text, with zeros in the sum's own place, and over every tensor's name, type, shape and bytes. A changed bit anywhere
is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from understudy.errors import ConfigError, UntrustedFileError
from understudy.util.files import write_atomically
from understudy.util.paths import AnyPath, parse_path

_KEY = "understudy"
_BLANK = "0" * 64
_MAX_HEADER = 1 << 26
_MAX_STRUCTURE = 300_000
"""Brackets and commas: a network has some ten a tensor, and one for each bound of a space that differs."""


def write_sealed(path: AnyPath, document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write atomically; the tensors are contiguous and on the CPU.

    Raises:
        ConfigError: more plain values than `read_sealed` takes.
    """
    text = json.dumps({**document, "sha256": _BLANK}, separators=(",", ":"), allow_nan=False)
    text = text.replace(_BLANK, _digest(text, tensors))
    values = _structure(text.encode()) + 10 * len(tensors)
    if values > _MAX_STRUCTURE:
        raise ConfigError(
            f"at most {_MAX_STRUCTURE} plain values to write",
            f"{values}",
            "give large Box spaces the same bounds everywhere",
        )
    write_atomically(path, safetensors.torch.save(dict(tensors), metadata={_KEY: text}))


def read_sealed(path: AnyPath) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The document and the tensors, verified.

    Raises:
        FileNotFoundError: no such file.
        UntrustedFileError: a pickle or a zip.
        ValueError: truncated, altered, or no file of this kind; also what safetensors and json raise.
    """
    file = parse_path(path)
    if file.exists() and not file.is_file():
        raise ValueError("a folder or a special file")
    content = file.read_bytes()
    if is_zip_or_pickle(content[:9]):
        raise UntrustedFileError(
            "a safetensors file",
            f"{file}, a zip archive or pickle, which could run code when read",
            "load it with the program that wrote it and save it again with save_policy or save_reward_net; "
            "for a zip of Stable-Baselines3 use load_policy('ppo', venv, path=...)",
        )
    try:
        return _parse(content)
    except safetensors.SafetensorError as err:
        raise ValueError(f"{type(err).__name__}: {err}") from err


def _structure(text: bytes) -> int:
    return sum(text.count(mark) for mark in (b"[", b"{", b","))


def is_zip_or_pickle(head: bytes) -> bool:
    """Whether a file that begins so is one; a safetensors header's length may well begin with a pickle's 0x80."""
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{")


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _MAX_HEADER):
        raise ValueError("the file ends before its header does")
    header = content[8 : 8 + size]
    if any(each in header for each in (b"\t", b"\r", b"\n")):
        raise ValueError("white space that this library does not write")
    if _structure(header) > _MAX_STRUCTURE:
        raise ValueError("a header of hundreds of thousands of values")
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
