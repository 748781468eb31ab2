"""DAgger in every kind of space, stored as it was seen, and asked in the space's own values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from _dagger_small import ACTIONS, OBSERVATIONS, SMALL, asked_for, simple, told_in, venv_of

from understudy.algorithms._dagger_demos import demo_files
from understudy.data import serialize


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_spaces(obs: str, act: str, tmp_path: Path) -> None:
    venv = venv_of(2, obs=obs, act=act)
    trainer = simple(tmp_path, venv)
    trainer.train(80, **SMALL)
    assert trainer.round_num == 2
    space = ACTIONS[act]
    for file in demo_files(tmp_path / "demos" / "round-001"):
        (episode,) = serialize.load(file)
        assert episode.acts.dtype == space.dtype
        assert episode.acts.shape == (10, *space.shape)
        assert np.array_equal(episode.acts, asked_for(told_in(episode.obs[:-1]), space))
        frames = episode.obs if obs != "dict" else episode.obs.get("told")
        expected = OBSERVATIONS[obs] if obs != "dict" else OBSERVATIONS[obs]["told"]
        assert (frames.dtype, frames.shape[1:]) == (expected.dtype, expected.shape)
        assert all(np.asarray(info["policy_action"], space.dtype) in space for info in episode.infos)
        assert {type(info["actor"]) for info in episode.infos} == {str}
    acts, _ = trainer.policy.predict(venv.reset(), deterministic=True)
    assert all(np.asarray(each, space.dtype) in space for each in acts)
