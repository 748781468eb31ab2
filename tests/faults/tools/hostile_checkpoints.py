"""Checkpoints and run folders: manifests that lead outside, states that name classes, pickles in place of tensors."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tools.formats import state
from tools.good import trainer
from tools.hostile import CANARY, Calls, Hostile, Workshop
from tools.hostile_datasets import resum, sum_of
from tools.hostile_policies import with_spec
from understudy.util import checkpoint
from understudy.util.manifest import MANIFEST


def _with_state(content: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "state.json").write_text(content if isinstance(content, str) else json.dumps(content))
        resum(folder)

    return change


def build(shop: Workshop) -> Iterator[Hostile]:
    """Checkpoints, and folders that hold them."""
    call = Calls(os.system, f"touch {shop.mark('checkpoint')}")
    jsonpickled = {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": ["id"]}]}

    def manifest_names(name: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            files = json.loads((folder / MANIFEST).read_text())["files"]
            resum(folder, files={**files, name: sum_of(shop.secret)})

        return change

    def tensors_are(content: bytes) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / "tensors.safetensors").write_bytes(content)
            resum(folder)

        return change

    def tensors_link(folder: Path) -> None:
        (folder / "tensors.safetensors").unlink()
        (folder / "tensors.safetensors").symlink_to(shop.secret)
        resum(folder)

    def torch_pickle(folder: Path) -> None:
        torch.save({"call": call}, folder / "tensors.safetensors")
        resum(folder)

    changes: dict[str, Callable[[Path], None]] = {
        "manifest-outside": manifest_names("../../../secret.arrow"),
        "manifest-absolute": manifest_names(str(shop.secret)),
        "manifest-parent": manifest_names(".."),
        "kind-by-path": lambda folder: resum(folder, kind=f"{CANARY}:Evil"),
        "facts-are-a-call": lambda folder: resum(folder, versions=jsonpickled, threads=jsonpickled),
        "state-is-a-call": _with_state(jsonpickled),
        "state-names-a-class": _with_state({"$class": f"{CANARY}:Evil"}),
        "state-names-a-tensor-outside": _with_state({"a": {"$tensor": "../../../secret.arrow"}}),
        "state-names-a-list": _with_state({"a": {"$tensor": ["x"]}}),
        "state-keys-unhashable": _with_state({"$items": [[[1], 2]]}),
        "state-float-expression": _with_state({"a": {"$float": "__import__('os').system('id')"}}),
        "state-nan": _with_state('{"a": NaN, "b": Infinity}'),
        "state-newlines": _with_state({"a": {"$tensor": "x\ny\nz"}}),
        "state-no-json": _with_state("!!python/object/apply:os.system ['id']"),
        "state-huge-number": _with_state('{"a": ' + "9" * 5000 + "}"),
        "tensors-are-a-pickle": tensors_are(pickle.dumps(call)),
        "tensors-are-a-torch-zip": torch_pickle,
        "tensors-link": tensors_link,
    }
    harmless = {"kind-by-path", "facts-are-a-call", "state-is-a-call", "state-names-a-class", "state-nan"}
    for name, change in changes.items():
        path = shop.place(f"checkpoint-{name}")
        checkpoint.write_checkpoint(path, state(1), kind="test")
        change(path)
        yield Hostile(path.name, path, may_load=name in harmless)
    yield from _trainers(shop)
    yield from _run_folders(shop, call, jsonpickled)


_ONLY_POLICY = frozenset(["read_checkpoint", "load_policy('ppo')", "load_policy('a2c')"])
"""Loaders that leave a trainer's options alone."""


def _trainers(shop: Workshop) -> Iterator[Hostile]:
    """A trainer of behavioural cloning, one thing in it changed."""
    evil = f"{CANARY}:Evil"
    states: dict[str, tuple[tuple[str, ...], Any]] = {
        "optimizer-by-path": (("trainer", "options", "optimizer"), evil),
        "optimizer-os-system": (("trainer", "options", "optimizer"), "os.system"),
        "optimizer-dunder": (("trainer", "options", "optimizer"), "__builtins__"),
        "compile-by-path": (("trainer", "options", "compile"), evil),
        "space-by-path": (("trainer", "options", "observation_space"), {"type": evil}),
        "generator-by-path": (("trainer", "rng"), {"bit_generator": evil, "state": {}}),
        "options-are-a-call": (("trainer", "options"), {"py/reduce": [{"py/function": "posix.system"}, ["id"]]}),
        "options-are-text": (("trainer", "options"), evil),
        "trainer-is-text": (("trainer",), evil),
    }
    for name, (keys, value) in states.items():
        path = trainer(shop.place(f"trainer-{name}"))
        tree = json.loads((path / "state.json").read_text())
        at = tree
        for key in keys[:-1]:
            at = at[key]
        assert keys[-1] in at, keys
        at[keys[-1]] = value
        _with_state(tree)(path)
        yield Hostile(path.name, path, may_load=_ONLY_POLICY)
    specs: dict[str, dict[str, Any]] = {
        "policy-by-entry-point": {"policy": {"class": evil}},
        "policy-extractor-by-path": {"parameters": {"features_extractor_class": {"class": evil}}},
    }
    for name, change in specs.items():
        path = trainer(shop.place(f"trainer-{name}"))
        with_spec(path / "policy.safetensors", change)
        resum(path)
        yield Hostile(path.name, path, may_load=frozenset(["read_checkpoint"]))
    path = trainer(shop.place("trainer-policy-is-a-pickle"))
    (path / "policy.safetensors").write_bytes(pickle.dumps(Calls(os.system, f"touch {shop.mark('trainer')}")))
    resum(path)
    yield Hostile(path.name, path, may_load=frozenset(["read_checkpoint"]))


def _run_folders(shop: Workshop, call: object, jsonpickled: Any) -> Iterator[Hostile]:
    run = shop.place("run-with-hostile-checkpoint")
    newest = checkpoint.step_folder(run, 7)
    checkpoint.write_checkpoint(newest, state(1), kind="test")
    _with_state("[" * 100_000)(newest)
    yield Hostile(run.name, run, may_load=True)  # the newest that verifies is found, and refused when it is read
    run = shop.place("run-with-pickles")
    run.mkdir()
    for name in ("model.pkl", "policy.pt", "trainer.pkl", "scheduler.pkl"):
        run.joinpath(name).write_bytes(pickle.dumps(call))
    run.joinpath("config.json").write_text(json.dumps({"algorithm": f"{CANARY}:Evil", "policy": jsonpickled}))
    run.joinpath("config.yaml").write_text("!!python/object/apply:os.system ['id']")
    yield Hostile(run.name, run)
    run = shop.place("run-of-links")
    run.mkdir()
    checkpoint.step_folder(run, 1).symlink_to(shop.files)
    yield Hostile(run.name, run)
    yield from _runs(shop, call, jsonpickled)


def _runs(shop: Workshop, call: object, jsonpickled: Any) -> Iterator[Hostile]:
    """Runs that were stopped, one option in their configuration changed."""
    from understudy.scripts._parts import Environment
    from understudy.scripts._run_folder import plain
    from understudy.scripts.train_bc import TrainBC

    pickled = shop.place("demonstrations.pkl")
    pickled.write_bytes(pickle.dumps(call))
    evil = f"{CANARY}:Evil-v0"
    changes: dict[str, tuple[tuple[str, ...], Any]] = {
        "environment-in-a-package": (("options", "environment", "env_id"), evil),
        "environment-is-a-call": (("options", "environment", "env_id"), jsonpickled),
        "demonstrations-are-a-pickle": (("options", "source", "demonstrations"), str(pickled)),
        "expert-is-a-pickle": (("options", "expert", "expert"), str(pickled)),
        "optimizer-by-path": (("options", "cloning", "optimizer"), f"{CANARY}:Evil"),
        "device-by-path": (("options", "cloning", "device"), evil),
        "options-are-a-call": (("options",), jsonpickled),
        "part-is-a-call": (("options", "cloning"), jsonpickled),
        "verb-by-path": (("verb",), evil),
        "hours-are-text": (("wall_clock_seconds",), "__import__('os')"),
    }
    for name, (keys, value) in changes.items():
        run = shop.place(f"run-{name}")
        run.mkdir()
        options = json.loads(json.dumps(plain(TrainBC(environment=Environment("CartPole-v1"), out=run))))
        config = {"verb": "train bc", "options": options, "seed": 0, "status": "running", "wall_clock_seconds": 1.0}
        config |= {"started": "2026-01-01T00:00:00+00:00", "command": "understudy"}
        at: Any = config
        for key in keys[:-1]:
            at = at[key]
        assert keys[-1] in at, keys
        at[keys[-1]] = value
        run.joinpath("config.json").write_text(json.dumps(config))
        yield Hostile(run.name, run)
