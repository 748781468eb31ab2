"""Reward networks whose specs name classes, functions and places to import from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from tools.formats import FORMATS
from tools.hostile import CANARY, Hostile, Workshop
from tools.hostile_policies import with_spec
from tools.loaders import DISCRETE
from understudy.rewards._spec import net_to_spec
from understudy.rewards.reward_nets import BasicRewardNet
from understudy.rewards.serialize import save_reward_net


def build(shop: Workshop) -> Iterator[Hostile]:
    """One changed spec a file."""
    call = {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": [f"touch {shop.mark('reward')}"]}]}
    evil = f"{CANARY}:Evil"
    net = BasicRewardNet(DISCRETE.observation_space, DISCRETE.action_space, hid_sizes=(4,))
    good = net_to_spec(net)

    def of_class(value: Any) -> Mapping[str, Any]:
        return {"reward_net": {**good, "class": value}}

    def with_option(name: str, value: Any) -> Mapping[str, Any]:
        return {"reward_net": {**good, "kwargs": {**good["kwargs"], name: value}}}

    def with_space(value: Any) -> Mapping[str, Any]:
        spec = copy.deepcopy(good)
        spec["args"][0] = value
        return {"reward_net": spec}

    specs: dict[str, Mapping[str, Any]] = {
        "class-is-os-system": of_class({"class": "os:system"}),
        "class-is-eval": of_class({"class": "builtins:eval"}),
        "class-by-entry-point": of_class({"class": evil}),
        "class-custom-by-entry-point": of_class({"custom": evil}),
        "class-by-path-text": of_class(evil),
        "class-is-a-call": of_class(call),
        "class-by-another-key": of_class({"module": CANARY}),
        "class-is-no-network": of_class({"class": "ReLU"}),
        "spec-is-a-call": {"reward_net": call},
        "spec-is-text": {"reward_net": evil},
        "inside-by-entry-point": {"reward_net": {**good, "args": [{"net": {**good, "class": {"class": evil}}}]}},
        "inside-is-a-call": {"reward_net": {**good, "args": [{"net": call}]}},
        "activation-by-path": with_option("activation", {"class": f"{CANARY}.touch"}),
        "activation-attribute": with_option("activation", {"class": "Tanh.__init__.__globals__"}),
        "activation-is-a-network": with_option("activation", {"class": "BasicRewardNet"}),
        "normaliser-by-entry-point": with_option("normalize_input_layer", {"custom": evil}),
        "option-is-a-call": with_option("hid_sizes", call),
        "option-by-dunder": with_option("__class__", {"class": "Tanh"}),
        "space-by-path": with_space({"space": {"type": f"{CANARY}.Evil"}}),
        "space-is-a-call": with_space(call),
        "aliases-are-a-call": {"aliases": call},
        "versions-are-a-call": {"format": 99, "versions": call},
        "newlines-in-names": of_class({"class": "a\nb\nc"}),
    }
    for name, change in specs.items():
        path = shop.place(f"reward-{name}.safetensors")
        save_reward_net(net, path)
        with_spec(path, change)
        yield Hostile(path.name, path)
    path = shop.place("reward-as-a-policy.safetensors")
    FORMATS["reward.safetensors"].save(path, 1)
    yield Hostile(path.name, path, may_load=frozenset(["load_reward_net"]))
