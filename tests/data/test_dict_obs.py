"""Dictionary observations behave as one array."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.data.dict_obs import (
    DictObs,
    assert_not_dictobs,
    concatenate_maybe_dictobs,
    map_maybe_dict,
    maybe_unwrap_dictobs,
    maybe_wrap_in_dictobs,
    stack_maybe_dictobs,
)
from understudy.errors import DataError


@pytest.fixture
def obs() -> DictObs:
    return DictObs({"image": np.arange(24, dtype=np.uint8).reshape(3, 2, 4), "speed": np.array([0.5, 1.5, 2.5])})


def test_shape_dtype_length_and_bytes(obs: DictObs) -> None:
    assert len(obs) == 3
    assert obs.dict_len == 2
    assert obs.shape == {"image": (3, 2, 4), "speed": (3,)}
    assert obs.dtype == {"image": np.dtype(np.uint8), "speed": np.dtype(np.float64)}
    assert obs.nbytes == 24 + 3 * 8


def test_indexing_applies_to_every_entry(obs: DictObs) -> None:
    assert obs[1:].shape == {"image": (2, 2, 4), "speed": (2,)}
    assert obs[np.array([2, 0])] == DictObs({"image": obs.get("image")[[2, 0]], "speed": np.array([2.5, 0.5])})
    single = obs[1]
    assert single.shape == {"image": (2, 4), "speed": ()}
    assert isinstance(single.get("speed"), np.ndarray)
    assert [float(step.get("speed")) for step in obs] == [0.5, 1.5, 2.5]


def test_a_slice_is_a_view(obs: DictObs) -> None:
    assert np.shares_memory(obs[1:].get("image"), obs.get("image"))


def test_stack_undoes_iteration(obs: DictObs) -> None:
    assert DictObs.stack(iter(obs)) == obs
    assert DictObs.from_obs_list([step.unwrap() for step in obs]) == obs
    assert stack_maybe_dictobs(list(obs)) == obs


def test_concatenate_joins_pieces(obs: DictObs) -> None:
    assert DictObs.concatenate([obs[:1], obs[1:]]) == obs
    assert concatenate_maybe_dictobs([obs[:2], obs[2:]]) == obs
    np.testing.assert_array_equal(concatenate_maybe_dictobs([np.zeros(1), np.ones(2)]), [0, 1, 1])


def test_equality_needs_keys_shapes_and_values(obs: DictObs) -> None:
    assert obs == DictObs({key: value.copy() for key, value in obs.items()})
    assert obs != DictObs({"image": obs.get("image")})
    assert obs != obs.map_arrays(lambda array: array + 1)
    assert obs != obs[:2]
    assert (obs == 1) is False


def test_helpers_treat_arrays_and_dictionaries_alike(obs: DictObs) -> None:
    assert map_maybe_dict(len, {"a": [1, 2]}) == {"a": 2}
    assert map_maybe_dict(lambda array: array[:1], obs) == obs[:1]
    assert map_maybe_dict(len, [1, 2, 3]) == 3
    assert maybe_wrap_in_dictobs(obs.unwrap()) == obs
    assert maybe_unwrap_dictobs(obs)["speed"] is obs.get("speed")
    array = np.zeros(2)
    assert assert_not_dictobs(array) is maybe_wrap_in_dictobs(array) is maybe_unwrap_dictobs(array) is array
    with pytest.raises(DataError, match="image"):
        assert_not_dictobs(obs)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_dictionary_of_arrays_is_refused() -> None:
    with pytest.raises(DataError, match="'a' → list"):
        DictObs({"a": [1, 2]})  # type: ignore[dict-item]
    with pytest.raises(DataError):
        DictObs({1: np.zeros(2)})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="same keys"):
        DictObs.stack([DictObs({"a": np.zeros(1)}), DictObs({"b": np.zeros(1)})])
    with pytest.raises(DataError, match="first axis"):
        len(DictObs({"a": np.zeros(1), "b": np.zeros(2)}))
    with pytest.raises(DataError, match="first axis"):
        len(DictObs({"a": np.array(0.0)}))
    with pytest.raises(KeyError):
        DictObs({"a": np.zeros(1)}).get("b")
