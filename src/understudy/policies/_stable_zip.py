"""A model's zip of Stable-Baselines3 as data: its plain values and its tensors, none of its pickles.

``data`` is JSON in which each value that is not plain is an object with a pickle in ``":serialized:"`` and, beside
it, the value's attributes as text. The pickles are left alone; the text is parsed (`_plain_text`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from understudy.errors import UntrustedFileError
from understudy.policies._bounded_zip import corrupt, open_zip
from understudy.policies._plain_text import TokenBudget
from understudy.policies._torch_archive import read_torch_archive

_MAX_MEMBERS = 100
_MAX_JSON = 1 << 26
_MAX_STRUCTURE = 300_000
"""Brackets, commas and colons in the JSON: each can cost a hundred bytes of memory; base64 has none of them."""
_MAX_TENSORS = 1 << 34
SERIALIZED = ":serialized:"


@dataclass(frozen=True)
class StableZip:
    """What a zip holds."""

    path: Path
    data: Mapping[str, Any]
    parameters: Mapping[str, Any]
    """State dicts by what they belong to: ``"policy"``, ``"policy.optimizer"``, ``"actor.optimizer"`` …"""
    variables: Mapping[str, Any]
    """Single tensors, such as ``"log_ent_coef"``."""
    version: str
    budget: TokenBudget = field(default_factory=TokenBudget, compare=False, repr=False)
    """For all the text in ``data`` together."""

    @property
    def policy(self) -> dict[str, torch.Tensor]:
        """The policy's tensors by name."""
        found: dict[str, torch.Tensor] = self.parameters["policy"]
        return found


def read_stable_zip(path: Path, *, policy_only: bool) -> StableZip:
    """Read a zip; nothing in it is executed.

    Args:
        path: the zip.
        policy_only: leave the optimisers' states alone.

    Raises:
        CorruptFileError: damaged, or no model of Stable-Baselines3.
        UntrustedFileError: built to do harm, or with more than tensors where tensors belong.
    """
    if not path.is_file():
        raise corrupt(f"a file at {path}", "a folder or a special file")
    with path.open("rb") as file, open_zip(file, str(path), max_members=_MAX_MEMBERS) as archive:
        if "data" not in archive or "policy.pth" not in archive:
            raise corrupt(f"a model of Stable-Baselines3 at {path}", f"a zip of {', '.join(archive.names[:10])}")
        data = _read_json(archive.read("data", _MAX_JSON), f"{path}: data")
        wanted = ["policy.pth"] if policy_only else [name for name in archive.names if name.endswith(".pth")]
        found = {
            name.removesuffix(".pth"): read_torch_archive(archive.read(name, _MAX_TENSORS), f"{path}: {name}")
            for name in wanted
        }
        version = "_stable_baselines3_version"
        text = archive.read(version, 100).decode(errors="replace") if version in archive else "unknown"
    variables = found.pop("pytorch_variables", None) or found.pop("tensors", None) or {}
    state = found["policy"]
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise corrupt(f"a state dict of tensors in {path}: policy.pth", type(state).__name__)
    version = " ".join(text.split())
    return StableZip(path, data, found, variables if isinstance(variables, dict) else {}, version)


def is_pickled(entry: Any) -> bool:
    """Whether an entry of ``data`` was pickled, so that only its text can be read."""
    return isinstance(entry, Mapping) and SERIALIZED in entry


def algorithms_of(tensors: Iterable[str]) -> frozenset[str]:
    """The algorithms, by the names of `load_policy`, whose policies have tensors of these names."""
    names = set(tensors)

    def some(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if some("lstm_actor."):
        return frozenset({"ppo_lstm"})
    if some("q_net."):
        return frozenset({"dqn"})
    if some("quantile_net."):
        return frozenset({"qrdqn"})
    if some("actor_target."):
        return frozenset({"td3", "ddpg"})
    if some("actor.latent_pi", "actor.mu.", "actor.log_std"):
        return frozenset({"sac", "tqc", "crossq"})
    if some("value_net."):
        return frozenset({"ppo", "a2c", "trpo", "ppo_mask"})
    if some("action_net."):
        return frozenset({"ars"})
    return frozenset()


def _read_json(content: bytes, what: str) -> dict[str, Any]:
    structure = sum(content.count(mark) for mark in (b"[", b"{", b",", b":"))
    if structure > _MAX_STRUCTURE:
        raise UntrustedFileError(
            f"at most {_MAX_STRUCTURE} values in {what}", f"about {structure}", "pass trust='pickle' if you trust it"
        )
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise corrupt(f"JSON in {what}", f"{type(err).__name__}: {err}") from err
    if not isinstance(data, dict):
        raise corrupt(f"a JSON object in {what}", type(data).__name__)
    return data
