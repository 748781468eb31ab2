"""Policy files whose specs name classes, functions and places to import from."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from tools.formats import policy
from tools.hostile import CANARY, Hostile, Workshop
from understudy.policies import serialize as policies

KEY = "understudy"
_BLANK = "0" * 64


def with_spec(path: Path, change: Mapping[str, Any]) -> None:
    """Put changed entries into a policy file's spec, under a sum that is right."""
    with safetensors.safe_open(path, "pt") as file:
        document = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = json.dumps({**document, **change, "sha256": _BLANK})
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    text = text.replace(_BLANK, digest.hexdigest())
    path.write_bytes(safetensors.torch.save(tensors, metadata={KEY: text}))


def safetensors_header(header: bytes, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    return struct.pack("<Q", len(header)) + header + data


def build(shop: Workshop) -> Iterator[Hostile]:
    """One changed spec a file."""
    call = {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": [f"touch {shop.mark('spec')}"]}]}
    evil = f"{CANARY}:Evil"

    def parameter(name: str, value: Any) -> dict[str, Any]:
        return {"parameters": {"net_arch": [4], name: value}}

    specs: dict[str, Mapping[str, Any]] = {
        "policy-is-os-system": {"policy": {"class": "os:system"}},
        "policy-is-os.system": {"policy": {"class": "os.system"}},
        "policy-is-builtins-eval": {"policy": {"class": "builtins:eval"}},
        "policy-by-entry-point": {"policy": {"class": evil}},
        "policy-by-entry-point-custom": {"policy": {"custom": evil}},
        "policy-by-dunder": {"policy": {"class": "__import__"}},
        "policy-by-path-text": {"policy": evil},
        "policy-is-a-call": {"policy": call},
        "extractor-by-path": parameter("features_extractor_class", {"class": f"{CANARY}.Evil"}),
        "extractor-by-module": parameter("features_extractor_class", {"module": CANARY, "name": "Evil"}),
        "extractor-as-text": parameter("features_extractor_class", evil),
        "extractor-arguments": parameter("features_extractor_kwargs", {"dict": {"a": {"class": evil}}}),
        "activation-by-path": parameter("activation_fn", {"class": f"{CANARY}.touch"}),
        "activation-attribute": parameter("activation_fn", {"class": "Tanh.__init__.__globals__"}),
        "optimizer-by-path": parameter("optimizer_class", {"class": f"{CANARY}.touch"}),
        "optimizer-arguments": parameter("optimizer_kwargs", {"dict": {"lr": {"custom": evil}}}),
        "custom-objects-inside": {"custom_objects": {"Evil": evil}, "policy": {"custom": "Evil"}},
        "space-by-path": {"observation_space": {"type": f"{CANARY}.Evil"}},
        "space-by-dunder": {"observation_space": {"type": "__class__"}},
        "space-dtype-by-path": {
            "observation_space": {"type": "Box", "shape": [3], "dtype": f"{CANARY}.Evil", "low": 0, "high": 1}
        },
        "space-is-a-call": {"action_space": call},
        "learning-rate-is-a-call": {"learning_rate": call},
        "versions-are-a-call": {"format": 99, "versions": call},
        "newlines-in-names": {"policy": {"class": "a\nb\nc"}},
        "aliases-are-a-call": {"aliases": call},
        "alias-of-itself": {"aliases": {"a": "a"}},
        "format-is-text": {"format": evil},
    }
    for name, change in specs.items():
        path = shop.place(f"policy-{name}.safetensors")
        policies.save_policy(policy(1), path)
        with_spec(path, change)
        yield Hostile(path.name, path, may_load=frozenset(["load_weights"]))  # which leaves the spec alone
    path = shop.place("policy-extra-is-a-call.safetensors")
    policies.save_policy(policy(1), path)
    with_spec(path, {"extra": call})
    yield Hostile(path.name, path, may_load=True)
    tensors = {"a": torch.zeros(2)}
    files = {
        "policy-other-metadata.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt", "class": evil}),
        "policy-metadata-is-a-call.safetensors": safetensors.torch.save(tensors, metadata={KEY: json.dumps(call)}),
        "policy-duplicate-keys.safetensors": safetensors_header(
            b'{"__metadata__":{"understudy":"{}"},"__metadata__":{"understudy":"[]"}}'
        ),
        "policy-metadata-no-mapping.safetensors": safetensors_header(b'{"__metadata__":["understudy"]}'),
        "policy-header-expression.safetensors": safetensors_header(b"__import__('os').system('id')"),
        "policy-without-metadata.safetensors": safetensors.torch.save(tensors),
    }
    for name, content in files.items():
        path = shop.place(name)
        path.write_bytes(content)
        yield Hostile(name, path)
