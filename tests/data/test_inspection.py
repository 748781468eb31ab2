from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from understudy.data.demonstrations import read_demonstrations
from understudy.data.inspection import Severity, inspect_demonstrations
from understudy.data.types import TrajectoryWithRew
from understudy.errors import DataError, NonFiniteDataError

_BOX = spaces.Box(-1, 1, (2,), np.float32)


def _healthy(n_episodes: int = 4, length: int = 25, seed: int = 0) -> list[TrajectoryWithRew]:
    rng = np.random.default_rng(seed)
    return [
        TrajectoryWithRew(
            obs=rng.normal(size=(length + i + 1, 3)).astype(np.float32),
            acts=rng.uniform(-1, 1, size=(length + i, 2)).astype(np.float32),
            infos=None,
            terminal=True,
            rews=np.ones(length + i, dtype=np.float32),
        )
        for i in range(n_episodes)
    ]


def _arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    dones = np.zeros(60, dtype=bool)
    dones[[19, 44, 59]] = True
    arrays = {
        "obs": rng.normal(size=(60, 3)).astype(np.float32),
        "acts": rng.uniform(-1, 1, size=(60, 2)).astype(np.float32),
        "rews": np.ones(60, dtype=np.float32),
        "dones": dones,
    }
    return {**arrays, **changes}


def _codes(data: Any, **spaces_: Any) -> dict[str, Any]:
    return {finding.code: finding for finding in inspect_demonstrations(data, **spaces_).findings}


def test_healthy_data_has_no_findings_and_right_figures() -> None:
    inspection = inspect_demonstrations(_healthy(), action_space=_BOX)
    assert inspection.findings == ()
    assert inspection.ok
    assert (inspection.n_episodes, inspection.n_transitions) == (4, 25 + 26 + 27 + 28)
    assert (inspection.lengths.low, inspection.lengths.median, inspection.lengths.high) == (25, 26.5, 28)
    assert inspection.returns is not None
    assert inspection.returns.high == 28
    fields = {field.name: field for field in inspection.fields}
    assert (fields["obs"].dtype, fields["obs"].shape) == ("float32", (106, 3))
    assert fields["acts"].n_bytes == 106 * 2 * 4


def test_nan_is_an_error_that_names_the_place() -> None:
    arrays = _arrays()
    arrays["obs"][21, 2] = np.nan
    arrays["acts"][0, 1] = np.inf
    inspection = inspect_demonstrations(arrays)
    texts = [finding.what for finding in inspection.findings if finding.code == "nan-values"]
    assert len(texts) == 2
    assert texts[0] == "obs: NaN or infinity in 1 of 60 steps in dimension 2: episode 1, step 1"
    assert "episode 0, step 0" in texts[1]
    assert not inspection.ok
    assert inspection.findings[0].severity is Severity.ERROR


def test_every_nan_has_its_place_and_its_episodes_are_to_be_dropped() -> None:
    arrays = _arrays()
    arrays["obs"][[3, 4, *range(20, 32)]] = np.nan
    found = _codes(arrays)["nan-values"]
    assert found.places == ((0, 3), (0, 4), *((1, step) for step in range(12)))
    assert "episode 0, steps 3, 4; episode 1, steps 0, 1, 2, 3, 4, 5, 6, 7 and 4 more" in found.what
    assert found.do.startswith("drop episodes 0, 1, ")
    with pytest.raises(NonFiniteDataError, match="drop episodes 0, 1, "):
        read_demonstrations(arrays)


def test_constant_dimensions_are_named() -> None:
    arrays = _arrays()
    arrays["obs"][:, 1] = 4.0
    arrays["acts"][:, 0] = 0.0
    codes = _codes(arrays)
    assert codes["constant-dimensions"].what.startswith("obs: dimension 1 never changes")
    assert "dimension 0" in codes["constant-actions"].what
    arrays["obs"][:] = 0
    assert _codes(arrays)["constant-observations"].severity is Severity.ERROR


def test_unequal_scales_ask_for_normalisation() -> None:
    arrays = _arrays()
    arrays["obs"][:, 0] *= 1e5
    assert "normalised" in _codes(arrays)["scales"].do


def test_actions_outside_the_space() -> None:
    arrays = _arrays()
    arrays["acts"][50] = [3.0, 0.0]
    found = _codes(arrays, action_space=_BOX)["actions-outside"]
    assert found.severity is Severity.WARNING
    assert "1 of 60 steps" in found.what
    assert "episode 2, step 5" in found.what
    discrete = _arrays(acts=np.arange(60) % 3 + 1)
    assert _codes(discrete, action_space=spaces.Discrete(3))["actions-outside"].severity is Severity.ERROR
    assert "actions-outside" not in _codes(discrete, action_space=spaces.Discrete(3, start=1))
    unused = _codes(discrete, action_space=spaces.Discrete(4, start=1))["unused-actions"]
    assert unused.what == "acts: action 4 never occurs"


def test_spaces_of_another_environment_are_errors() -> None:
    codes = _codes(_arrays(), observation_space=spaces.Box(-9, 9, (4,)), action_space=spaces.Box(-1, 1, (3,)))
    assert codes["observation-space"].severity is Severity.ERROR
    assert codes["action-space"].severity is Severity.ERROR
    codes = _codes(_arrays(), observation_space=spaces.Dict(a=spaces.Box(-9, 9, (3,))))
    assert codes["observation-space"].severity is Severity.ERROR


def test_observations_outside_their_bounds() -> None:
    arrays = _arrays()
    arrays["obs"][3] = [50, 0, 0]
    assert "1 of 60" in _codes(arrays, observation_space=spaces.Box(-9, 9, (3,)))["observations-outside"].what


def test_clipped_actions_are_told_from_the_data_alone() -> None:
    wild = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    assert "clipped-actions" not in _codes(_arrays(acts=wild))
    assert "dimension 1" in _codes(_arrays(acts=np.clip(wild, -0.8, 0.8)))["clipped-actions"].what


def test_repeated_steps_and_contradictions() -> None:
    arrays = _arrays()
    arrays["obs"][30:36], arrays["acts"][30:36] = arrays["obs"][:6], arrays["acts"][:6]
    found = _codes(arrays)["duplicates"]
    assert "6 of 60 steps" in found.what
    assert "first episode 1, step 10 repeats episode 0, step 0" in found.what
    assert found.places == tuple((1, step) for step in range(10, 16))
    arrays["acts"][30:36] += 0.125
    codes = _codes(arrays)
    assert "duplicates" not in codes
    assert "6 of 60 steps" in codes["contradictions"].what
    assert "episode 1, step 10 contradicts episode 0, step 0" in codes["contradictions"].what


def test_rows_of_images_are_compared_too() -> None:
    images = np.random.default_rng(0).integers(0, 255, size=(60, 16, 16, 3), dtype=np.uint8)
    assert "duplicates" not in _codes(_arrays(obs=images))
    images[30:36] = images[:6]
    arrays = _arrays(obs=images)
    arrays["acts"][30:36] = arrays["acts"][:6]
    assert len(_codes(arrays)["duplicates"].places) == 6


def test_copied_episodes_are_named_and_their_steps_are_not_told_again() -> None:
    trajectories = _healthy()
    codes = _codes([*trajectories, trajectories[1]])
    assert (
        "1 of 5 episodes are exact copies of earlier ones: episode 4 of episode 1" in codes["duplicate-episodes"].what
    )
    assert "drop episode 4" in codes["duplicate-episodes"].do
    assert "duplicates" not in codes


def test_missing_ends() -> None:
    arrays = _arrays()
    del arrays["dones"]
    assert "60 steps count as one" in _codes(arrays)["unknown-episodes"].what
    noted = inspect_demonstrations({**arrays, "episode_ends": np.array([20, 45, 60])}).findings
    assert [(finding.code, finding.severity) for finding in noted] == [("missing-terminations", Severity.NOTE)]
    none = np.zeros(60, dtype=bool)
    found = _codes({**arrays, "dones": none, "episode_ends": np.array([20, 45, 60])})["missing-terminations"]
    assert found.severity is Severity.WARNING
    assert "3 of 3" in found.what
    disagreeing = _codes(_arrays(episode_ends=np.array([25, 45, 60])))
    assert disagreeing["end-inside-episode"].severity is Severity.ERROR


@pytest.mark.defect("B5")
def test_a_time_limit_recorded_as_termination_is_noticed() -> None:
    dones = np.zeros(60, dtype=bool)
    dones[[19, 39, 59]] = True
    assert "at exactly 20 steps" in _codes(_arrays(dones=dones))["time-limit-as-termination"].what
    right = _codes(_arrays(dones=np.zeros(60, dtype=bool), truncated=dones))
    assert "time-limit-as-termination" not in right
    assert "missing-terminations" not in right


def test_shuffled_rows_are_noticed() -> None:
    arrays = _arrays()
    next_obs = np.roll(arrays["obs"], -1, axis=0)
    assert "out-of-order" not in _codes({**arrays, "next_obs": next_obs})
    assert "57 of 57" in _codes({**arrays, "next_obs": next_obs[::-1]})["out-of-order"].what


def test_odd_returns_and_missing_rewards() -> None:
    arrays = _arrays()
    del arrays["rews"]
    assert "no-rewards" in _codes(arrays)
    trajectories = _healthy(8)
    trajectories[3].rews[:] = -10
    assert "1 of 8 episodes" in _codes(trajectories)["low-returns"].what


def test_dtypes() -> None:
    images = np.random.default_rng(0).integers(0, 255, size=(60, 4, 4, 3))
    assert "8 times smaller" in _codes(_arrays(obs=images))["wide-images"].do
    assert "wide-images" not in _codes(_arrays(obs=images.astype(np.uint8)))
    assert "float64" in _codes(_arrays(obs=np.random.default_rng(0).normal(size=(60, 3))))
    assert "whole-floats" in _codes(_arrays(acts=np.arange(60.0) % 2))
    assert _codes(_arrays(acts=np.array(["a"] * 60)))["action-dtype"].severity is Severity.ERROR


def test_dict_observations_are_inspected_by_key() -> None:
    rng = np.random.default_rng(0)
    obs = {"pixels": rng.integers(0, 255, (60, 2, 2), dtype=np.uint8), "speed": np.zeros((60, 1), np.float32)}
    assert "obs['speed']" in _codes(_arrays(obs=obs))["constant-observations"].what


def test_what_is_no_demonstration_is_refused() -> None:
    with pytest.raises(DataError):
        inspect_demonstrations({"obs": np.zeros((3, 1))})
