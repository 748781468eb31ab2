"""Zip archives: ``.npz``, ``torch.save`` and models of Stable-Baselines3, with pickles and crooked names inside."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from tools.hostile import CANARY, Calls, Hostile, Workshop
from tools.hostile_pickles import by_hand
from tools.loaders import DISCRETE


def build(shop: Workshop) -> Iterator[Hostile]:
    """Arrays, torch files, models."""
    yield from _arrays(shop)
    yield from _torch_files(shop)
    yield from _models(shop)


Member = tuple[str | zipfile.ZipInfo, bytes]


def zipped(members: Iterable[Member], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these members; names may repeat."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    """A member that is a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def npy(array: Any) -> bytes:
    """An array, its objects pickled."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def _objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _npy_with_header(header: str) -> bytes:
    content = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + bytes(64)


def _arrays(shop: Workshop) -> Iterator[Hostile]:
    call = Calls(os.system, f"touch {shop.mark('npz')}")
    obs, acts = npy(np.zeros((3, 3), np.float32)), npy(np.zeros(2, np.int64))
    plain = [("obs.npy", obs), ("acts.npy", acts)]
    older = [  # trajectories as earlier libraries saved them
        *plain,
        ("terminal.npy", npy(np.array([True]))),
        ("indices.npy", npy(np.zeros(0, np.int64))),
        ("rews.npy", npy(np.zeros(2))),
    ]
    pickled = pickle.dumps(call)
    files = {
        "older-infos.npz": zipped([*older, ("infos.npy", npy(_objects({"x": call}, {})))]),
        "older-infos-compressed.npz": zipped([*older, ("infos.npy", npy(_objects(call, {})))], zipfile.ZIP_DEFLATED),
        "object-obs.npz": zipped([("obs.npy", npy(_objects(call))), ("acts.npy", acts)]),
        "object-scalar.npz": zipped([*plain, ("infos.npy", npy(np.array(call, dtype=object)))]),
        "object-meta.npz": zipped([("meta.npy", npy(_objects(call)))]),
        "bare-pickle-member.npz": zipped([("obs.npy", pickled), ("acts.npy", acts)]),
        "bare-pickle-meta.npz": zipped([("meta.npy", pickled)]),
        "pickle-without-npy-name.npz": zipped([*plain, ("infos", pickled)]),
        "object-field-in-record.npz": zipped([("obs.npy", _record(call)), ("acts.npy", acts)]),
        "zip-slip.npz": zipped([*plain, ("../../marks/slipped.npy", obs)]),
        "absolute-name.npz": zipped([*plain, (str(shop.mark("absolute.npy")), obs)]),
        "backslash-name.npz": zipped([*plain, ("..\\..\\marks\\slipped.npy", obs)]),
        "duplicate-names.npz": zipped([*plain, ("obs.npy", npy(_objects(call)))]),
        "link-member.npz": zipped([link("obs.npy", str(shop.secret)), ("acts.npy", acts)]),
        "nested.npz": zipped([*plain, ("infos.npy", zipped([("infos.npy", npy(_objects(call)))]))]),
        "header-expression.npz": zipped([("obs.npy", _npy_with_header(_expression(shop))), ("acts.npy", acts)]),
        "header-dtype-by-name.npz": zipped([("meta.npy", _npy_with_header(_dtype(CANARY + ".Evil")))]),
        "object.npy": npy(_objects(call)),
        "header-expression.npy": _npy_with_header(_expression(shop)),
    }
    # Nothing is unpacked, and pickled infos are left out.
    harmless = {"zip-slip.npz", "absolute-name.npz", "backslash-name.npz"} | {each for each in files if "older" in each}
    for name, content in files.items():
        path = shop.place(name)
        path.write_bytes(content)
        yield Hostile(name, path, may_load=name in harmless)


def _record(call: object) -> bytes:
    record = np.zeros(2, dtype=[("number", "f4"), ("thing", "O")])
    record["thing"] = call
    return npy(record)


def _expression(shop: Workshop) -> str:
    return f"__import__('os').system('touch {shop.mark('header')}') or {{'descr': '<f4'}}"


def _dtype(name: str) -> str:
    return str({"descr": name, "fortran_order": False, "shape": (1,)})


class Network(torch.nn.Module):
    """A module, pickled whole."""

    def __init__(self, call: object) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.call = call


def _torch_files(shop: Workshop) -> Iterator[Hostile]:
    call = Calls(os.system, f"touch {shop.mark('torch')}")
    state = torch.nn.Linear(3, 2).state_dict()
    things = {"whole-module": Network(call), "state-dict": {**state, "call": call}, "tensors-only": state}
    for name, thing in things.items():
        for kind, new in (("zip", True), ("legacy", False)):
            path = shop.place(f"torch-{name}-{kind}.pt")
            torch.save(thing, path, _use_new_zipfile_serialization=new)
            yield Hostile(path.name, path)
    pickled = by_hand(f"touch {shop.mark('torch-by-hand')}")["global-reduce"]
    files = {
        "torch-script.pt": zipped(
            [("a/constants.pkl", pickled), ("a/data.pkl", pickled), ("a/code/__torch__.py", b"op_version_set = 1\n")]
        ),
        "torch-old-tar.pt": _tar(dict.fromkeys(("sys_info", "storages", "tensors", "pickle"), pickled)),
    }
    for name, content in files.items():
        path = shop.place(name)
        path.write_bytes(content)
        yield Hostile(name, path)


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def model_members() -> dict[str, bytes]:
    """A model as Stable-Baselines3 saves it, member by member."""
    buffer = io.BytesIO()
    PPO("MlpPolicy", DISCRETE, n_steps=2, batch_size=2, policy_kwargs={"net_arch": [4]}, device="cpu").save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _serialized(call: object) -> dict[str, str]:
    return {":type:": "<class 'function'>", ":serialized:": base64.b64encode(pickle.dumps(call)).decode()}


_UNREADABLE = frozenset(["evil-policy-weights", "pickle-for-weights", "model-in-a-model", "link"])
"""Models without weights; from the others a reader may take the weights and leave the rest alone."""


def _models(shop: Workshop) -> Iterator[Hostile]:
    good = model_members()
    data = json.loads(good["data"])
    call = Calls(os.system, f"touch {shop.mark('model')}")
    buffer = io.BytesIO()
    torch.save({"call": call}, buffer)
    evil_weights = buffer.getvalue()

    def with_data(**changes: Any) -> Iterable[Member]:
        return {**good, "data": json.dumps({**data, **changes}).encode()}.items()

    named = {":type:": "<class 'type'>", "__module__": CANARY, "__name__": "Evil", **_serialized(call)}
    kwargs = {**_serialized(call), "activation_fn": f"<class '{CANARY}.Evil'>", "net_arch": [4]}
    models: dict[str, list[Member]] = {
        "every-entry-serialized": [*with_data(**{key: _serialized(call) for key in data})],
        "policy-class": [*with_data(policy_class=named)],
        "policy-kwargs": [*with_data(policy_kwargs=kwargs)],
        "extractor-by-path": [
            *with_data(policy_kwargs={**kwargs, "features_extractor_class": f"<class '{CANARY}.Evil'>"})
        ],
        "learning-rate": [*with_data(lr_schedule=_serialized(call), learning_rate=_serialized(call))],
        "observation-space": [*with_data(observation_space={**data["observation_space"], **_serialized(call)})],
        "action-space": [*with_data(action_space={**data["action_space"], **_serialized(call)})],
        "jsonpickle-in-data": [*with_data(policy_kwargs={"py/reduce": [{"py/function": "os.system"}, ["touch x"]]})],
        "evil-policy-weights": [*{**good, "policy.pth": evil_weights}.items()],
        "evil-optimizer": [*{**good, "policy.optimizer.pth": evil_weights}.items()],
        "evil-variables": [*{**good, "pytorch_variables.pth": evil_weights}.items()],
        "pickle-for-weights": [*{**good, "policy.pth": pickle.dumps(call)}.items()],
        "model-in-a-model": [*{**good, "policy.pth": zipped(good.items())}.items()],
        "zip-slip": [*good.items(), ("../../marks/slipped.pth", b"x")],
        "absolute-name": [*good.items(), (str(shop.mark("absolute")), b"x")],
        "link": [*((n, c) for n, c in good.items() if n != "policy.pth"), link("policy.pth", str(shop.secret))],
        "duplicate-data": [*good.items(), ("data", json.dumps({"policy_class": _serialized(call)}).encode())],
        "duplicate-weights": [*good.items(), ("policy.pth", evil_weights)],
        "replay-buffer": [*good.items(), ("replay_buffer.pkl", pickle.dumps(call))],
    }
    for name, members in models.items():
        path = shop.place(f"model-{name}.zip")
        path.write_bytes(zipped(members))
        yield Hostile(path.name, path, may_load=name not in _UNREADABLE)
    folder = shop.place("model-folder")
    folder.mkdir()
    folder.joinpath("model.zip").write_bytes(zipped(models["every-entry-serialized"]))
    folder.joinpath("vec_normalize.pkl").write_bytes(pickle.dumps(call))
    folder.joinpath("policy.safetensors").write_bytes(pickle.dumps(call))
    yield Hostile(folder.name, folder)
