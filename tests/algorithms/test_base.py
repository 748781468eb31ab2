"""What all algorithms share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from understudy.algorithms.base import BaseImitationAlgorithm, make_data_loader
from understudy.data.types import Trajectory, Transitions, TransitionsMinimal, transitions_collate_fn
from understudy.errors import ConfigError, DataError
from understudy.util import logger


class Algorithm(BaseImitationAlgorithm):
    pass


def transitions(n: int) -> Transitions:
    rows = np.arange(n, dtype=np.float32)[:, None]
    return Transitions(obs=rows, acts=np.arange(n), infos=None, next_obs=rows + 1, dones=np.zeros(n, bool))


def test_a_logger_is_made_on_first_use_and_can_be_replaced() -> None:
    algorithm = Algorithm()
    assert algorithm.logger is algorithm.logger
    algorithm.logger.close()
    other = logger.configure(format_strs=[])
    algorithm.logger = other
    assert algorithm.logger is other


def test_fixed_horizon_is_remembered_between_checks() -> None:
    algorithm = Algorithm()
    algorithm._check_fixed_horizon([5, 5], "demonstrations")
    algorithm._check_fixed_horizon([], "nothing yet")
    with pytest.raises(DataError, match=r"\[5, 6\] in the environment.*allow_variable_horizon"):
        algorithm._check_fixed_horizon([6], "the environment")


def test_variable_horizon_is_allowed_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="lengths"):
        algorithm = Algorithm(allow_variable_horizon=True)
    algorithm._check_fixed_horizon([5, 6], "demonstrations")


@pytest.mark.defect("B18")
@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
def test_a_loader_yields_every_row_once_a_pass(batch_size: int) -> None:
    loader = make_data_loader(transitions(10), batch_size)
    for _ in range(2):
        batches = list(loader)
        assert sorted(int(a) for batch in batches for a in batch["acts"]) == list(range(10))
        assert set(batches[0]) >= {"obs", "acts", "next_obs", "dones"}


def test_loader_options_are_passed_on() -> None:
    (first, *_) = make_data_loader(transitions(10), 3, {"shuffle": False})
    assert first["acts"].tolist() == [0, 1, 2]


def test_a_loader_of_trajectories_pairs_with_what_follows() -> None:
    trajectory = Trajectory(np.arange(4)[:, None], np.arange(3), None, terminal=True)
    (batch,) = make_data_loader([trajectory], 8, {"shuffle": False})
    assert (batch["obs"] + 1 == batch["next_obs"]).all()  # type: ignore[operator, union-attr]
    assert batch["dones"].tolist() == [False, False, True]


def test_observations_and_actions_suffice() -> None:
    (batch,) = make_data_loader({"obs": np.zeros((3, 2)), "acts": np.zeros(3)}, 8)
    assert set(batch) == {"obs", "acts", "infos"}


def test_a_loader_of_the_users_own_is_handed_through() -> None:
    rows: Any = TransitionsMinimal(obs=np.zeros((5, 2)), acts=np.arange(5), infos=None)
    loader = make_data_loader(DataLoader(rows, batch_size=2, collate_fn=transitions_collate_fn), 2)
    assert [len(batch["acts"]) for batch in loader] == [2, 2, 1]


def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        make_data_loader(transitions(3), 0)
