"""The text beside a pickle: Python's own notation for plain values, arrays, spaces and classes, parsed and no more."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from _clock import cpu_seconds
from gymnasium import spaces
from stable_baselines3.common.save_util import data_to_json
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from understudy.errors import ConfigError
from understudy.policies._plain_text import ClassName, Construction, Opaque, UnreadableTextError, parse
from understudy.policies._schedules import first_rate, read_schedule
from understudy.policies._space_text import disagreement, read_space_text, space_from_text


@pytest.mark.parametrize(
    "value",
    [1, -2.5, 1e-8, "text", "", True, None, [1, [2.0, "x"]], (1,), (1, 2), {"a": {"b": [None]}, 3: "c"}, [], {}],
)
def test_plain_values(value):
    assert parse(str(value) if not isinstance(value, str) else repr(value)) == value


def test_names_stay_names():
    assert parse(str(nn.ReLU)) == ClassName("torch.nn.modules.activation.ReLU")
    assert parse(str({"normalize_class": nn.Tanh})) == {"normalize_class": ClassName(f"{nn.Tanh.__module__}.Tanh")}
    assert isinstance(parse(str(lambda: 0)), Opaque)
    assert parse("f(1, b='x')") == Construction("f", (1,), {"b": "x"})
    assert parse(str(np.array([[1.0, -np.inf], [0.5, 2e-9]]))) == [[1.0, float("-inf")], [0.5, 2e-9]]


@pytest.mark.parametrize(
    "text",
    [
        "", "1 2", "[1", "{1: 2", "{1, 2}", "f(", "a.b.c(1)(2)", "1 + 1", "x if y else z", "[i for i in j]", "'\\x41'",
        "lambda: 0", "{[1]: 2}", "[" * 100 + "]" * 100, "0" * (1 << 21), "<class 'a'", "__import__('os').system('x')",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    started = cpu_seconds()
    with pytest.raises(UnreadableTextError):
        parse(text)
    assert cpu_seconds() - started < 0.5


@pytest.mark.parametrize(
    "text", ["<" * 5000, "<class '" + "a" * 5000, "'" + "\\" * 20000, "1" * 5000 + "x", "<a<b>" * 4000]
)
def test_no_text_takes_long(text):
    started = cpu_seconds()
    with pytest.raises(UnreadableTextError):
        parse(text)
    assert cpu_seconds() - started < 0.5


SPACES = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(np.array([-4.8, -np.inf], np.float32), np.array([4.8, np.inf], np.float32)),
    spaces.Box(0, 255, (4, 84, 84), np.uint8),
    spaces.Box(-1, 1, ()),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Dict({"a": spaces.Box(-1, 1, (2, 2)), "b": spaces.Discrete(3, start=1), "c": spaces.MultiBinary((2, 3))}),
    spaces.Dict({"a": spaces.Dict({"b": spaces.MultiDiscrete([2, 3])}), "i": spaces.Box(0, 255, (3, 9, 9), np.uint8)}),
]


def text_of(space: gym.Space):
    import json

    return read_space_text(json.loads(data_to_json({"space": space}))["space"])


@pytest.mark.parametrize("index", range(len(SPACES)))
def test_spaces_agree_with_their_own_text_alone(index):
    text = text_of(SPACES[index])
    assert text is not None
    assert [number for number, other in enumerate(SPACES) if not disagreement(text, other)] == [index]


@pytest.mark.parametrize("space", [each for each in SPACES if each.shape != (4, 84, 84)], ids=str)
def test_spaces_come_back_from_their_text(space):
    assert space_from_text(text_of(space), "s", exact_bounds=True) == space


def test_images_come_back_where_their_bounds_are_not_critical():
    image = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert space_from_text(text_of(image), "s", exact_bounds=False) == image
    with pytest.raises(ConfigError, match="only a part"):
        space_from_text(text_of(image), "s", exact_bounds=True)
    with pytest.raises(ConfigError, match="nothing that can be read"):
        space_from_text(None, "s", exact_bounds=False)


@pytest.mark.parametrize("entry", [None, 3, {}, {":type:": "x"}, {":type:": "<class 'a.Box'>", "_shape": "x"}])
def test_no_space(entry):
    assert read_space_text(entry) is None


def test_spaces_of_the_older_gym():
    box = {
        ":type:": "<class 'gym.spaces.box.Box'>", ":serialized:": "gASV", "dtype": "float32", "_shape": [2],
        "low": "[-4.8 -inf]", "high": "[4.8 inf]", "_np_random": "Generator(PCG64) at 0x7F",
    }  # fmt: skip
    assert not disagreement(read_space_text(box), SPACES[1])
    choices = {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 5, "_shape": [], "dtype": "int64"}
    assert not disagreement(read_space_text(choices), spaces.Discrete(5))
    several = {
        ":type:": "<class 'gym.spaces.dict.Dict'>",
        "spaces": "OrderedDict([('a', Box([-1. -1.], [1. 1.], (2,), float32)), ('b', Discrete(3))])",
    }
    same = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    assert not disagreement(read_space_text(several), same)
    assert space_from_text(read_space_text(several), "s", exact_bounds=True) == same
    assert disagreement(read_space_text(several), spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(4)}))


def entry_of(value):
    import json

    return json.loads(data_to_json({"value": value}))["value"]


def test_schedules():
    assert read_schedule(0.25) == 0.25
    assert read_schedule(entry_of(FloatSchedule(0.25)))(1.0) == 0.25
    assert read_schedule(entry_of(ConstantSchedule(0.5))) == 0.5
    linear = LinearSchedule(1.0, 0.5, 0.5)
    for entry in (entry_of(linear), entry_of(FloatSchedule(linear))):
        assert [read_schedule(entry)(left) for left in (1.0, 0.75, 0.0)] == [1.0, 0.75, 0.5]
    for entry in (None, True, float("inf"), "0.1", entry_of(lambda left: left), entry_of(FloatSchedule(lambda _: 1.0))):
        assert read_schedule(entry) is None


@pytest.mark.defect("B24")
@pytest.mark.parametrize("rate", [0.0, -1.0, 3e38, None, "x"])
def test_a_learning_rate_is_always_one_to_go_on_with(rate):
    assert first_rate({"learning_rate": rate}) == 3e-4
    assert first_rate({"learning_rate": 0.01}) == 0.01
