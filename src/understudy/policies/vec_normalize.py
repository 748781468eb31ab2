"""The running statistics of Stable-Baselines3's VecNormalize: read from its pickles as data, written without one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from understudy.errors import CorruptFileError, MissingFileError, SpaceMismatchError, UntrustedFileError
from understudy.policies._inert_arrays import array_of, number_of
from understudy.policies._inert_pickle import Call, MalformedPickleError, read_inert
from understudy.util.paths import AnyPath, parse_path
from understudy.util.sealed import is_zip_or_pickle, read_sealed, write_sealed
from understudy.util.versions import library_versions

_KIND = "vec_normalize"
_MAX_PICKLE = 1 << 26
_NUMBERS = {"clip_obs": 10.0, "clip_reward": 10.0, "gamma": 0.99, "epsilon": 1e-8}
_SWITCHES = ("norm_obs", "norm_reward")
_FILES = ("vec_normalize.safetensors", "vec_normalize.pkl", "vecnormalize.pkl")


def save_vec_normalize(vec_normalize: VecNormalize, path: AnyPath) -> None:
    """Write the statistics and options as one safetensors file, atomically; nothing of the environments."""
    moments = {f"obs_rms{'' if key is None else ':' + key}": rms for key, rms in _obs_moments(vec_normalize).items()}
    tensors = {}
    for name, rms in {**moments, "ret_rms": vec_normalize.ret_rms}.items():
        for part in ("mean", "var", "count"):
            tensors[f"{name}/{part}"] = torch.from_numpy(np.array(getattr(rms, part), np.float64))
    options = {name: float(getattr(vec_normalize, name)) for name in _NUMBERS}
    switches = {name: bool(getattr(vec_normalize, name)) for name in _SWITCHES}
    document = {
        "kind": _KIND,
        "format": 1,
        "options": {**options, **switches, "norm_obs_keys": vec_normalize.norm_obs_keys},
        "versions": library_versions(),
    }
    write_sealed(path, document, tensors)


def load_vec_normalize(path: AnyPath, venv: VecEnv, *, training: bool = False) -> VecNormalize:
    """Wrap environments in the VecNormalize that a policy was trained with.

    A ``vec_normalize.pkl`` of Stable-Baselines3 is read as data: its opcodes are interpreted by a reader that can call
    nothing, and only the statistics and options are taken.

    Args:
        path: that pickle, a file of `save_vec_normalize`, a folder with either, or a model's zip beside them; or beside
            a folder with them, as RL Baselines3 Zoo has it: ``NAME.zip`` and ``NAME/vecnormalize.pkl``.
        venv: not wrapped in a VecNormalize yet.
        training: go on updating the statistics.

    Raises:
        FileNotFoundError: nothing there.
        CorruptFileError: damaged, or statistics that are none: a negative variance, NaN.
        UntrustedFileError: a pickle of something else.
        SpaceMismatchError: statistics of other observations.
    """
    file = _locate(path)
    state = _read(file)
    wrapped = VecNormalize(venv, training=training, **state["options"])
    if wrapped.norm_obs:
        _check_keys(wrapped, state["obs_rms"], file)
        for key, rms in _obs_moments(wrapped).items():
            _set(rms, state["obs_rms"][key], file, "observations" if key is None else f"observations of {key!r}")
    _set(wrapped.ret_rms, state["ret_rms"], file, "returns")
    return wrapped


def statistics_beside(archive: Path) -> Path:
    """Where the statistics that belong to a model's zip are kept."""
    return archive.with_name(_FILES[0] if archive.name == "model.zip" else f"{archive.stem}.vec_normalize.safetensors")


def normalizes_observations(archive: Path) -> bool:
    """Whether statistics lie beside a model's zip, and they are of observations.

    Raises:
        CorruptFileError: they are damaged.
    """
    try:
        file = _locate(archive)
    except MissingFileError:
        return False
    return bool(_read(file)["options"]["norm_obs"])


def _read(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        head = opened.read(9)
    pickled = is_zip_or_pickle(head) and not head.startswith(b"PK")
    return _from_pickle(file) if pickled else _from_sealed(file)


def _locate(path: AnyPath) -> Path:
    given = parse_path(path)
    folder = given if given.is_dir() else given.parent
    candidates = [folder / name for name in _FILES]
    if given.is_dir() or given.suffix == ".zip":
        # RL Baselines3 Zoo: NAME_1/NAME.zip (or best_model.zip) with NAME_1/NAME/vecnormalize.pkl
        names = {given.stem: None, folder.name: None, re.sub(r"_\d+$", "", folder.name): None}
        candidates += [folder / name / file for name in names for file in _FILES]
    if given.suffix == ".zip":
        candidates.insert(0, statistics_beside(given))
    elif not given.is_dir():
        candidates = [given]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MissingFileError(
        f"statistics of a VecNormalize at {given}", "nothing there", f"look for a file such as {' or '.join(_FILES)}"
    )


def _obs_moments(vec_normalize: VecNormalize) -> dict[str | None, RunningMeanStd]:
    if not vec_normalize.norm_obs:
        return {}
    rms: Any = vec_normalize.obs_rms
    return dict(rms) if isinstance(rms, dict) else {None: rms}


def _check_keys(wrapped: VecNormalize, found: Mapping[str | None, Any], file: Path) -> None:
    expected = set(_obs_moments(wrapped))
    if expected != set(found):
        raise SpaceMismatchError(
            f"statistics in {file} for {sorted(map(str, expected))}",
            f"statistics for {sorted(map(str, found))}",
            "use the environments that the statistics were gathered in",
        )


def _set(rms: RunningMeanStd, moments: Mapping[str, Any], file: Path, what: str) -> None:
    mean, var = (np.asarray(moments[name], np.float64) for name in ("mean", "var"))
    count = float(moments["count"])
    if mean.shape != rms.mean.shape or var.shape != rms.var.shape:
        raise SpaceMismatchError(
            f"statistics of the {what} in {file} of shape {rms.mean.shape}, as these environments have",
            f"shape {mean.shape}",
            "use the environments that the statistics were gathered in",
        )
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all() and 0 <= count < math.inf):
        raise _bad(file, f"statistics of the {what} that are not finite, or a negative variance")
    rms.mean, rms.var, rms.count = mean.copy(), var.copy(), count


def _bad(file: Path, got: str) -> CorruptFileError:
    return CorruptFileError(
        f"statistics of a VecNormalize in {file}", got[:300], "restore the file from a copy, or save it again"
    )


def _options(state: Mapping[str, Any], file: Path) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, usual in _NUMBERS.items():
        value = number_of(state.get(name, usual))
        if value is None or not value >= 0:
            raise _bad(file, f"{name} = {value if value is not None else type(state.get(name)).__name__}")
        options[name] = value
    for name in _SWITCHES:
        options[name] = bool(number_of(state.get(name, True)))
    keys = state.get("norm_obs_keys")
    if keys is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise _bad(file, "norm_obs_keys that are no list of names")
    options["norm_obs_keys"] = keys
    return options


def _from_sealed(file: Path) -> dict[str, Any]:
    try:
        document, tensors = read_sealed(file)
        if document["kind"] != _KIND or document["format"] != 1:
            raise ValueError(f"a file of kind {document['kind']!r} and format {document['format']!r}")
        moments: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in tensors.items():
            owner, _, part = name.rpartition("/")
            moments.setdefault(owner, {})[part] = tensor.numpy()
        returns = moments.pop("ret_rms")
        observed = {name.partition(":")[2] if ":" in name else None: each for name, each in moments.items()}
        return {"options": _options(document["options"], file), "obs_rms": observed, "ret_rms": returns}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        if isinstance(err, CorruptFileError | UntrustedFileError):
            raise
        raise _bad(file, f"{type(err).__name__}: {err}") from err


def _from_pickle(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MAX_PICKLE:
        raise _bad(file, f"{file.stat().st_size} bytes")
    try:
        found = read_inert(file.read_bytes())
        if not (isinstance(found, Call) and found.name.endswith(".VecNormalize") and isinstance(found.state, dict)):
            name = found.name if isinstance(found, Call) else type(found).__name__
            raise UntrustedFileError(
                f"a pickled VecNormalize in {file}", f"{name[:100] or 'something else'!r}", "do not use this file"
            )
        state = found.state
        options = _options(state, file)
        observed: dict[str | None, Any] = {}
        if options["norm_obs"]:
            rms = state["obs_rms"]
            observed = (
                {str(key): _moments(each) for key, each in rms.items()}
                if isinstance(rms, dict)
                else {None: _moments(rms)}
            )
        return {"options": options, "obs_rms": observed, "ret_rms": _moments(state["ret_rms"])}
    except (MalformedPickleError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as err:
        if isinstance(err, CorruptFileError | UntrustedFileError):
            raise
        raise _bad(file, f"{type(err).__name__}: {err}") from err


def _moments(record: Any) -> dict[str, Any]:
    if not isinstance(record, Call) or not record.name.endswith(".RunningMeanStd"):
        raise ValueError("statistics of another class")
    count = number_of(record.state["count"])
    if count is None:
        raise ValueError("no count")
    return {"mean": array_of(record.state["mean"]), "var": array_of(record.state["var"]), "count": count}
