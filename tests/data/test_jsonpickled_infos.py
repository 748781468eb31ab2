"""jsonpickle's text is read as data: numbers come back, names of code stay text, and nothing grows beyond its file."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from _clock import cpu_seconds

from understudy.data._jsonpickle import MAX_DEPTH, decode_info
from understudy.data._jsonpickle_arrays import MAX_BYTES

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
    start = cpu_seconds()
    with pytest.raises(ValueError, match="more than"):
        decode_info("{" + ", ".join(f'"{i}": {text}' for i, text in enumerate(laughs)) + "}")
    depth = MAX_DEPTH + 1
    with pytest.raises(ValueError, match="deeper"):
        decode_info('{"a": ' + '{"py/tuple": [' * depth + "]}" * depth + "}")
    zipped = {"py/object": "numpy.ndarray", "dtype": "u1", "shape": [1 << 40], "values": ""}
    assert decode_info(json.dumps({"a": zipped}))["a"]["py/object"] == "numpy.ndarray"
    assert cpu_seconds() - start < 1


REST = '"c": [1, 2], "x": [7], "y": [8], "d": {"py/id": %d}'
OF_5 = '{"py/object": "numpy.ndarray", "dtype": "float64", "values": [0.0, 1.0, 2.0, 3.0, 4.0]}'
OF_40 = (
    '{"py/object": "numpy.ndarray", "values": "eJwFwQcCQgAAAMCjUkJT2WTl/z90RyB0cHQSObuIXSVSmZu7'
    'h6eXt9zHV6FUqTVand7gZzSZLVZ/mx1TmAMN", "shape": [40], "dtype": "int16", "byteorder": "<"}'
)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param('{"py/object": "a.State", "py/state": {"k": [9]}}', 4, id="state"),
        pytest.param('{"py/object": "a.State", "py/state": {"py/tuple": [[9], {"k": 2}]}}', 4, id="state-of-slots"),
        pytest.param('{"py/object": "a.List", "py/seq": [1, [2]]}', 3, id="list"),
        pytest.param('{"py/object": "a.List", "q": [5], "py/seq": [1, [2]]}', 4, id="list-with-attributes"),
        pytest.param(
            '{"py/object": "a.New", "py/newargsex": [{"py/tuple": [[2]]}, {"k": [3]}]}', 5, id="new-arguments"
        ),
        pytest.param('{"py/mod": "json/json"}', 2, id="module"),
        pytest.param('{"py/repr": "json/json"}', 2, id="module-before-4"),
        pytest.param(
            '{"py/object": "datetime.datetime", "__reduce__": [{"py/type": "datetime.datetime"}, ["B+QBAQAAAAAAAA==", '
            '{"py/reduce": [{"py/type": "datetime.timezone"}, {"py/tuple": [{"py/reduce": '
            '[{"py/type": "datetime.timedelta"}, {"py/tuple": [0, 0, 0]}]}]}]}]]}',
            4,
            id="time",
        ),
        pytest.param(
            '{"py/object": "numpy.ndarray", "dtype": "float64", "values": [], "shape": [0, 3]}', 3, id="empty-array"
        ),
        pytest.param(
            f'{{"py/object": "numpy.ndarray", "base": {OF_5}, "strides": [16], "shape": [3], "dtype": "float64", '
            '"values": [0.0, 2.0, 4.0]}',
            5,
            id="strided-array",
        ),
        pytest.param(
            f'{{"py/object": "numpy.ma.MaskedArray", "base": {OF_5}, "shape": [2], "dtype": "float64", '
            '"values": [1.0, null]}',
            5,
            id="masked-array",
        ),
        pytest.param(
            f'{{"py/object": "numpy.ndarray", "base": {OF_40}, "strides": [4], "shape": [20], "dtype": "int16"}}',
            3,
            id="packed-array",
        ),
    ],
)
def test_what_an_object_hides_in_its_tags_is_counted(text: str, number: int) -> None:
    """As jsonpickle 3.0.4 and 4.1.4 wrote them; ``d`` was the same list as ``c``."""
    info = decode_info(f'{{"s": {text}, {REST % number}}}')
    assert info["d"] is info["c"]
    assert info["c"] == [1, 2]


def test_a_named_tuple_is_counted_once() -> None:
    pair = '{"py/object": "a.Pair", "py/newargs": {"py/tuple": [[1, 2], 2]}, "py/seq": [{"py/id": 2}, 2]}'
    info = decode_info(f'{{"p": {pair}, "c": {{"py/id": 2}}}}')
    assert info["c"] == [1, 2]
    assert info["p"]["py/newargs"] == ([1, 2], 2)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "text",
    [
        '{"py/object": "pandas.core.frame.DataFrame", "values": [[1]], "meta": {"k": [1]}}',
        '{"py/object": "a.Array", "dtype": "float64", "shape": [2], "values": [1, 2]}',
        '{"py/object": "a.Thing", "py/property": {"k": 1}}',
        '{"py/unheard": [1]}',
        '{"py/tuple": 3}',
        '{"py/id": 9}',
        '{"json://{\\"py/object\\": \\"a.Key\\"}": 1}',
    ],
)
def test_after_what_cannot_be_counted_references_stay_text(text: str) -> None:
    info = decode_info(f'{{"before": [5], "s": {text}, {REST % 3}, "e": {{"py/id": 1}}}}')
    assert info["d"] == {"py/id": 3}
    assert info["e"] == [5]  # what stands before it is certain


def test_views_and_arrays_of_no_axis_come_back() -> None:
    half = f'{{"py/object": "numpy.ndarray", "base": {OF_40}, "strides": [4], "shape": [20], "dtype": "int16"}}'
    assert decode_info(f'{{"a": {half}}}')["a"].tolist() == list(range(0, 40, 2))
    half = half.replace('"strides"', '"offset": 2, "strides"')
    assert decode_info(f'{{"a": {half}}}')["a"].tolist() == list(range(1, 40, 2))
    single = decode_info('{"a": {"py/object": "numpy.ndarray", "dtype": "float64", "values": 3.0}}')["a"]
    assert (type(single), single.shape, single.item()) == (np.ndarray, (), 3)
    swapped = '{"py/object": "numpy.ndarray", "values": "eJxj4GTkYuJm5mHhZeVj42cX4BAEAASnAJo=", "shape": [2, 9]'
    fortran = decode_info(f'{{"a": {swapped}, "dtype": "int8", "order": "F"}}}}')["a"]
    assert fortran.tolist() == np.arange(18).reshape(2, 9).tolist()


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "change",
    [
        ('"shape": [20]', '"shape": [21]'),
        ('"shape": [20]', '"shape": [-1]'),
        ('"strides": [4]', '"strides": [1000000000000000000]'),
        ('"strides": [4]', '"offset": -2, "strides": [4]'),
        ('"strides": [4], "shape": [20]', '"strides": [0], "shape": [1000000000000]'),
        ('[20], "dtype": "int16"', '[20], "dtype": "int32"'),
        ('[20], "dtype": "int16"', '[20], "dtype": "int16", "byteorder": "S"'),
    ],
)
def test_a_view_that_reaches_beyond_its_array_stays_text(change: tuple[str, str]) -> None:
    half = f'{{"py/object": "numpy.ndarray", "base": {OF_40}, "strides": [4], "shape": [20], "dtype": "int16"}}'
    assert change[0] in half
    assert decode_info(f'{{"a": {half.replace(*change)}}}')["a"]["py/object"] == "numpy.ndarray"


@pytest.mark.fault("F7")
def test_packed_arrays_count_towards_one_limit() -> None:
    """Each inflates to 8 MB from 10 KB: two fit into the limit, sixty are refused before they are there."""
    packed = {
        "py/object": "numpy.ndarray",
        "dtype": "float64",
        "shape": [1_000_000],
        "values": base64.b64encode(zlib.compress(bytes(8_000_000))).decode(),
    }
    assert decode_info(json.dumps({"a": packed, "b": packed}))["b"].sum() == 0
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="inflate to more than"):
            decode_info(json.dumps({str(i): packed for i in range(60)}))
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_BYTES
    finally:
        tracemalloc.stop()
    long = {"py/object": "numpy.ndarray", "dtype": "U100000000", "values": ["a"]}
    with pytest.raises(ValueError, match="inflate to more than"):
        decode_info(json.dumps({"a": long}))
