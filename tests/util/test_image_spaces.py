"""Two layouts of images are one space to a policy; nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from understudy.util.image_spaces import channels_first, policy_sees

LAST, FIRST = spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Box(0, 255, (3, 36, 40), np.uint8)
POSE = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    ("space", "turned"),
    [
        (LAST, FIRST),
        (FIRST, FIRST),
        (POSE, POSE),
        (spaces.Discrete(3), spaces.Discrete(3)),
        (spaces.Dict({"a": LAST, "b": POSE}), spaces.Dict({"a": FIRST, "b": POSE})),
    ],
)
def test_images_are_turned_and_all_else_is_left(space: Any, turned: Any) -> None:
    assert channels_first(space) == turned
    assert policy_sees(turned, space)


@pytest.mark.parametrize(
    ("policy_space", "space"),
    [
        (LAST, FIRST),  # a policy never turns channels-first observations back
        (FIRST, spaces.Box(0, 255, (40, 36, 3), np.uint8)),
        (FIRST, spaces.Box(0, 1, (36, 40, 3), np.float32)),
        (POSE, spaces.Box(-2, 2, (3,), np.float32)),
        (spaces.Dict({"a": FIRST}), spaces.Dict({"b": LAST})),
    ],
)
def test_other_spaces_are_other_spaces(policy_space: Any, space: Any) -> None:
    assert not policy_sees(policy_space, space)
