"""Checks at the door: do arrays fit the spaces, and are they finite?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import DataError, NonFiniteDataError, SpaceMismatchError, UnsupportedSpaceError

_CHUNK = 1 << 20  # values looked at together


def check_numeric(name: str, values: Observation) -> None:
    """Raise DataError unless these are numbers that torch can hold: no objects, text, complex or extended precision."""
    if isinstance(values, DictObs):
        for key, array in values.items():
            check_numeric(f"{name}[{key!r}]", array)
        return
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise DataError(
            expected=f"`{name}` as numbers of at most 64 bits",
            got=f"dtype {values.dtype}",
            do="convert it, for example with .astype(numpy.float32)",
        )


def check_finite(
    name: str, values: Observation | Sequence[Observation], episode_offsets: np.ndarray, where: str = ""
) -> None:
    """Raise NonFiniteDataError at the first NaN or infinity, saying in which trajectory, step and entry it stands.

    Args:
        name: the field's name, for the message.
        values: shape (row, *item); or pieces of it, in order.
        episode_offsets: the rows of episode ``e`` are ``offsets[e]:offsets[e + 1]``.
        where: which part of the data this is, where it is not all of it.
    """
    pieces = [values] if isinstance(values, (np.ndarray, DictObs)) else values
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if not arrays:
        dictionaries = [piece.unwrap() for piece in pieces if isinstance(piece, DictObs)]
        for key in dictionaries[0]:
            check_finite(f"{name}[{key!r}]", [entries[key] for entries in dictionaries], episode_offsets, where)
    elif np.issubdtype(arrays[0].dtype, np.floating):
        _check_finite(name, arrays, episode_offsets, where)


def _blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Rows looked at together, and the number of the first: a check never copies a whole data set."""
    rows = max(1, _CHUNK // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), rows):
        yield start, values[start : start + rows]


def _check_finite(name: str, pieces: list[np.ndarray], episode_offsets: np.ndarray, where: str) -> None:
    bad_rows: list[np.ndarray] = []
    first_bad: np.ndarray | None = None
    before = 0
    for piece in pieces:
        for start, block in _blocks(piece):
            # The sum is finite exactly if all values are, unless finite ones overflow: look closer then.
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(block.sum())
            if suspicious:
                bad = np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))
                bad_rows.append(bad + before + start)
                if first_bad is None and len(bad):
                    first_bad = block[bad[0]]
        before += len(piece)
    if first_bad is None:
        return
    rows = np.concatenate(bad_rows)
    row = int(rows[0])
    episode = int(np.searchsorted(episode_offsets, row, side="right")) - 1
    entry = np.argwhere(~np.isfinite(first_bad))[0] if first_bad.ndim else []
    episodes = np.unique(np.searchsorted(episode_offsets, rows, side="right") - 1)
    some = ", ".join(str(e) for e in episodes[:8]) + (f" and {len(episodes) - 8} more" if len(episodes) > 8 else "")
    listed = f"episode{'' if len(episodes) == 1 else 's'} {some}" if len(episode_offsets) > 2 else "these steps"
    at = f", entry {tuple(int(i) for i in entry)}" if len(entry) else ""
    raise NonFiniteDataError(
        expected=f"finite values in `{name}`" + (f" of {where}" if where else ""),
        got=f"NaN or infinity in {len(rows)} rows, first in trajectory {episode}, step "
        f"{row - int(episode_offsets[episode])}{at}",
        do=f"drop {listed}, or repair what wrote them; `understudy inspect` lists the steps",
    )


def _mismatch(name: str, space: spaces.Space[Any], got: str, do: str) -> SpaceMismatchError:
    return SpaceMismatchError(expected=f"`{name}` from {space}", got=got, do=do)


def fitted_obs(obs: Observation, space: spaces.Space[Any], name: str) -> Observation:
    """Observations in the layout of ``space``: without a superfluous axis, images channels-first if the space is.

    Raises:
        SpaceMismatchError: they do not fit.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, DictObs) or obs.keys() != space.spaces.keys():
            got = f"keys {sorted(obs.keys())}" if isinstance(obs, DictObs) else f"arrays of shape {obs.shape[1:]}"
            raise _mismatch(name, space, got, f"pass a dictionary (or DictObs) with keys {sorted(space.spaces)}")
        return DictObs({key: _fitted_array(obs.get(key), sub, f"{name}[{key!r}]") for key, sub in space.spaces.items()})
    if isinstance(obs, DictObs):
        raise _mismatch(name, space, f"a dictionary with keys {sorted(obs.keys())}", "pass one array")
    return _fitted_array(obs, space, name)


def _shape_of(space: spaces.Space[Any], name: str) -> tuple[int, ...]:
    if space.shape is None:
        raise UnsupportedSpaceError(
            expected=f"`{name}` from a Box, Discrete, MultiDiscrete or MultiBinary space (or a Dict of them)",
            got=str(space),
            do="flatten it, for example with gymnasium.wrappers.FlattenObservation",
        )
    return space.shape


def _fitted_array(obs: np.ndarray, space: spaces.Space[Any], name: str) -> np.ndarray:
    shape = _shape_of(space, name)
    if obs.shape[1:] == shape:
        fitted = obs
    elif isinstance(space, spaces.Discrete) and obs.shape[1:] == (1,):
        fitted = obs[:, 0]
    elif len(shape) == 3 and obs.ndim == 4 and (obs.shape[3], *obs.shape[1:3]) == shape:
        fitted = obs.transpose(0, 3, 1, 2)  # channels-last images for a channels-first space; a view, no copy
    else:
        raise _mismatch(
            name,
            space,
            f"rows of shape {obs.shape[1:]}",
            "use the spaces of the environment the demonstrations were recorded in",
        )
    _check_choices(fitted, space, name)
    return fitted


def fitted_acts(acts: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """Actions in the layout of ``space``; whole numbers stored as floats become int64 for discrete spaces.

    Raises:
        SpaceMismatchError: their shape or values do not fit. Continuous actions outside the bounds pass: an expert's
            unclipped samples are still the best targets there are.
        UnsupportedSpaceError: a space without one fixed shape.
    """
    acts = checked_acts(acts, space)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)) and acts.dtype.kind == "f":
        return acts.astype(np.int64)
    return acts


def checked_acts(acts: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """As ``fitted_acts``, in their own type: a view, nothing is copied."""
    shape = _shape_of(space, "acts")
    if acts.shape[1:] != shape:
        if [size for size in acts.shape[1:] if size != 1] != [size for size in shape if size != 1]:
            raise _mismatch(
                "acts", space, f"rows of shape {acts.shape[1:]}", "use the action space the expert acted in"
            )
        acts = acts.reshape(len(acts), *shape)
    _check_choices(acts, space, "acts")
    if isinstance(space, spaces.Box) and acts.dtype.kind == "b":
        raise _mismatch("acts", space, "booleans", "convert them to float32")
    return acts


def _check_choices(values: np.ndarray, space: spaces.Space[Any], name: str) -> None:
    """Whole numbers within the space, where it is one of choices; any type may hold them."""
    low: Any
    high: Any
    if isinstance(space, spaces.Discrete):
        low, high = int(space.start), int(space.start + space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        low = np.asarray(getattr(space, "start", np.zeros_like(space.nvec)))
        high = low + space.nvec
    elif isinstance(space, spaces.MultiBinary):
        low, high = 0, 2
    else:
        return
    row, n_outside = -1, 0
    for start, block in _blocks(values):
        if values.dtype.kind == "f" and (np.floor(block) != block).any():
            raise _mismatch(name, space, "numbers that are not whole", "pass the index of each choice")
        outside = (block < low) | (block >= high)
        if n_outside == 0 and outside.any():
            row = start + int(np.argwhere(outside)[0][0])
        n_outside += int(np.count_nonzero(outside))
    if n_outside:
        raise _mismatch(
            name,
            space,
            f"{values[row]} in row {row} ({n_outside} values outside)",
            "check that indices start where the space starts",
        )
