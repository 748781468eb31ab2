"""jsonpickle's text is read as data: numbers come back, names of code stay text, and nothing grows beyond its file."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

import numpy as np
import pytest

from understudy.data._jsonpickle import MAX_DEPTH, decode_info

F4 = '{"py/reduce": [{"py/type": "numpy.dtype"}, {"py/tuple": ["f4", false, true]}, {"py/tuple": [3, "<"]}]}'


def array(dtype: str = F4, data: str = "AACAPwAAAEA=", shape: str = "[2]", module: str = "numpy.core") -> str:
    function = f'{{"py/function": "{module}.multiarray._reconstruct"}}'
    begin = '{"py/tuple": [{"py/type": "numpy.ndarray"}, {"py/tuple": [0]}, {"py/b64": "Yg=="}]}'
    state = f'{{"py/tuple": [1, {{"py/tuple": {shape}}}, {dtype}, false, {{"py/b64": "{data}"}}]}}'
    return f'{{"py/reduce": [{function}, {begin}, {state}]}}'


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_arrays_and_scalars_come_back(module: str) -> None:
    function = f'{{"py/function": "{module}.multiarray.scalar"}}'
    scalar = f'{{"py/reduce": [{function}, {{"py/tuple": [{F4}, {{"py/b64": "AAAgQA=="}}]}}]}}'
    info = decode_info(f'{{"a": {array(module=module)}, "s": {scalar}}}')
    assert info["a"].dtype == np.float32
    assert info["a"].tolist() == [1, 2]
    assert type(info["s"]) is np.float32
    assert info["s"] == 2.5


def test_order_byte_order_text_and_objects_in_arrays() -> None:
    big = F4.replace('"<"', '">"')
    assert decode_info(f'{{"a": {array(big, "P4AAAEAAAAA=")}}}')["a"].tolist() == [1, 2]
    fortran = array(data="AACAPwAAAEAAAEBAAACAQA==", shape="[2, 2]").replace("false, {", "true, {")
    assert decode_info(f'{{"a": {fortran}}}')["a"].tolist() == [[1, 3], [2, 4]]
    text = F4.replace('"f4"', '"U2"')
    assert decode_info(f'{{"a": {array(text, "YQAAAGIAAABjAAAAAAAAAA==")}}}')["a"].tolist() == ["ab", "c"]
    objects = F4.replace('"f4"', '"O8"')
    of_objects = array(objects).replace('{"py/b64": "AACAPwAAAEA="}', '[{"x": 1}, null]')
    assert decode_info(f'{{"a": {of_objects}}}') == {"a": [{"x": 1}, None]}


def test_what_the_numpy_handlers_write_comes_back() -> None:
    plain = {"py/object": "numpy.ndarray", "dtype": "float32", "values": [[1, 2]]}
    packed = {"py/object": "numpy.ndarray", "dtype": "int16", "shape": [2], "byteorder": "<", "values": "AQACAA=="}
    scalar = {"py/object": "numpy.float64", "dtype": "float64", "value": 1.5}
    info = decode_info(json.dumps({"plain": plain, "packed": packed, "scalar": scalar}))
    assert (info["plain"].dtype, info["plain"].tolist()) == (np.float32, [[1, 2]])
    assert (info["packed"].dtype, info["packed"].tolist()) == (np.int16, [1, 2])
    assert info["scalar"] == 1.5
    zipped = {**packed, "values": base64.b64encode(zlib.compress(np.array([3, 4], np.int16).tobytes())).decode()}
    assert decode_info(json.dumps({"a": zipped}))["a"].tolist() == [3, 4]


def test_tuples_sets_bytes_and_ordered_dictionaries() -> None:
    items = '{"py/tuple": [{"py/tuple": ["k", 1]}]}'
    ordered = f'{{"py/reduce": [{{"py/type": "collections.OrderedDict"}}, {{"py/tuple": []}}, null, null, {items}]}}'
    text = f'{{"t": {{"py/tuple": [1, [2]]}}, "s": {{"py/set": [1, 1]}}, "b": {{"py/b64": "YWI="}}, "o": {ordered}}}'
    assert decode_info(text) == {"t": (1, [2]), "s": {1}, "b": b"ab", "o": {"k": 1}}


def test_references_count_lists_dictionaries_and_objects_from_0() -> None:
    ids = '[{"py/id": 1}, {"py/id": 2}, {"py/id": 3}]'
    info = decode_info(f'{{"d": {{"x": 1}}, "t": {{"py/tuple": [[5]]}}, "a": {array()}, "ids": {ids}}}')
    assert info["ids"][:2] == [{"x": 1}, [5]]
    assert info["ids"][2] is info["a"]
    dtype_again = array(dtype='{"py/id": 2}')  # 0 the info, 1 the first array, 2 its type
    assert decode_info(f'{{"a": {array()}, "b": {dtype_again}}}')["b"].tolist() == [1, 2]


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "tagged",
    [
        {"py/type": "os.system"},
        {"py/function": "os.system"},
        {"py/mod": "os"},
        {"py/repr": "os/os.system('id')"},
        {"py/object": "subprocess.Popen", "args": ["id"]},
        {"py/object": "numpy.ndarray", "dtype": "os.system", "values": [1]},
        {"py/id": 0},
        {"py/id": 10**30},
        {"py/id": -1},
        {"py/ref": "/"},
        {"py/b64": "not base64: é"},
    ],
)
def test_names_of_code_and_wrong_references_stay_what_they_say(tagged: dict[str, Any]) -> None:
    assert decode_info(json.dumps({"a": tagged, "b": 1})) == {"a": tagged, "b": 1}


@pytest.mark.fault("F6")
def test_a_reduction_to_anything_but_numbers_is_not_obeyed() -> None:
    call = {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["id"]}]}
    (left,) = decode_info(json.dumps({"a": call})).values()
    assert left == {"py/reduce": [{"py/function": "os.system"}, ("id",)]}
    assert decode_info(json.dumps({"py/object": "os.system"})) == {"py/object": "os.system"}


@pytest.mark.parametrize(
    "wrong",
    [
        array(data="AACAPw=="),
        array(shape="[1000000000000]"),
        array(shape="[-1, -2]"),
        array(F4.replace('"f4"', '"V8"')),
        array(F4.replace('"f4"', '"f4,f4"')),
        array(F4.replace('"f4"', '"O8"')),
    ],
)
def test_an_array_that_its_bytes_do_not_bear_out_stays_text(wrong: str) -> None:
    assert "py/reduce" in decode_info(f'{{"a": {wrong}}}')["a"]


@pytest.mark.fault("F7")
def test_what_would_grow_is_refused_at_once() -> None:
    laughs = ["[0, 0]", *(f'[{{"py/id": {i}}}, {{"py/id": {i}}}]' for i in range(1, 60))]
    start = time.perf_counter()
    with pytest.raises(ValueError, match="more than"):
        decode_info("{" + ", ".join(f'"{i}": {text}' for i, text in enumerate(laughs)) + "}")
    depth = MAX_DEPTH + 1
    with pytest.raises(ValueError, match="deeper"):
        decode_info('{"a": ' + '{"py/tuple": [' * depth + "]}" * depth + "}")
    zipped = {"py/object": "numpy.ndarray", "dtype": "u1", "shape": [1 << 40], "values": ""}
    assert decode_info(json.dumps({"a": zipped}))["a"]["py/object"] == "numpy.ndarray"
    assert time.perf_counter() - start < 1
