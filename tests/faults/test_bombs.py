"""Small files that ask for terabytes are refused within a second and without the memory (F7)."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tools.bombs import build
from tools.loaders import DATA, LOADERS
from tools.trial import try_bombs

pytestmark = [
    pytest.mark.fault("F7"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured in /proc"),
]

ONE_OF_EACH = [
    *("data.serialize.load", "as_demonstrations", "load_saved_policy", "load_policy('ppo')", "load_weights"),
    *("load_stable_baselines_model(PPO)", "load_vec_normalize", "read_checkpoint", "BC.load"),
]
MEMORY = 64 << 20


def may_be_taken(bomb: str, loader: str) -> bool:
    """What is large stands where that loader does not look, or is as small as it says."""
    if bomb.startswith("policy-"):
        return loader == "load_weights" or bomb == "policy-extra-nested.safetensors"
    if "state.json" in bomb:
        return loader in DATA
    if bomb == "infos-of-depth-100000":
        return loader in ("as_demonstrations", *(each for each in DATA if "inspect" in each))
    return bomb == "checkpoint-long-list"


def complaints(answer: dict[str, Any]) -> list[str]:
    """What is wrong with how a loader took a bomb."""
    return [
        *([] if answer["typed"] else [f"{answer['error']}: {answer['text'][:200]}"]),
        *([] if answer["error"] or may_be_taken(answer["bomb"], answer["loader"]) else ["loaded"]),
        *([] if "\n" not in answer["text"] else [f"several lines: {answer['text'][:200]!r}"]),
        *([] if answer["seconds"] <= 1 else [f"{answer['seconds']:.1f} s"]),
        *([] if answer["bytes"] <= MEMORY else [f"{answer['bytes'] >> 20} MiB"]),
    ]


@pytest.mark.parametrize(
    "loaders", [pytest.param(ONE_OF_EACH, id="ci"), pytest.param(list(LOADERS), id="full", marks=pytest.mark.slow)]
)
def test_a_bomb_is_refused_at_once_and_without_memory(loaders: list[str], tmp_path: Path) -> None:
    bombs = build(tmp_path / "bombs")
    assert len(bombs) >= 12
    answers = try_bombs(bombs, tmp_path / "good", loaders)
    assert len(answers) == len(bombs) * len(loaders)
    wrong = defaultdict(list)
    for answer in answers:
        for complaint in complaints(answer):
            wrong[f"{answer['bomb']}: {complaint}"] += [answer["loader"]]
    slowest, largest = max(each["seconds"] for each in answers), max(each["bytes"] for each in answers)
    print(
        f"{len(bombs)} bombs in {len(loaders)} loaders: slowest {slowest:.2f} s, largest {largest / 2**20:.0f} MiB, "
        f"{sum(not each['error'] for each in answers)} taken as what they are"
    )
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(f"{what} {by}" for what, by in sorted(wrong.items()))
