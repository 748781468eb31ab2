"""Behavioural cloning to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch.utils.data import DataLoader

from understudy.algorithms.bc import BC
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.types import TransitionsMinimal, transitions_collate_fn
from understudy.errors import CheckpointError, ConfigError, CorruptFileError, FileWriteError, MissingFileError
from understudy.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from understudy.util.checkpoint import read_checkpoint, write_checkpoint
from understudy.util.logger import configure
from understudy.util.vec_env import make_vec_env

OBS = spaces.Box(-9, 9, (4,), np.float32)
ACT = spaces.Discrete(2)
DATA = {
    "obs": np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32),
    "acts": np.arange(100) % 2,
    "episode_ends": np.array([50, 100]),
}


def make_bc(**options: Any) -> BC:
    options = {"observation_space": OBS, "action_space": ACT, "rng": 3, "demonstrations": DATA, **options}
    return BC(custom_logger=configure(format_strs=[]), **options)


def load(path: Path, **options: Any) -> BC:
    return BC.load(path, DATA, custom_logger=configure(format_strs=[]), **options)


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_a_saved_trainer_goes_on_as_the_one_that_was_not_saved(tmp_path: Path) -> None:
    bc = make_bc(batch_size=16, l2_weight=1e-4, max_grad_norm=1.0)
    bc.train(n_epochs=2, progress_bar=False)
    bc.save(tmp_path / "bc")
    loaded = load(tmp_path / "bc")
    assert_same(loaded.state(), bc.state())
    for each in (bc, loaded):
        each.train(n_epochs=3, progress_bar=False)
    assert_same(loaded.state(), bc.state())


def test_before_any_training_too(tmp_path: Path) -> None:
    bc = make_bc()
    bc.save(tmp_path / "bc")
    assert_same(load(tmp_path / "bc").state(), bc.state())


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer_cls": torch.optim.SGD, "optimizer_kwargs": {"lr": 0.1, "momentum": 0.9}},
        {"optimizer_cls": torch.optim.AdamW},
        {"observation_space": spaces.Dict({"a": OBS, "b": spaces.Discrete(5)}), "demonstrations": None},
        {"action_space": spaces.MultiDiscrete([2, 3]), "demonstrations": None},
        {"action_space": spaces.Discrete(3, start=7), "demonstrations": None},
    ],
)
def test_options_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    bc = make_bc(**options)
    if "demonstrations" not in options:
        bc.train(n_epochs=1, progress_bar=False)
    bc.save(tmp_path / "bc")
    loaded = BC.load(tmp_path / "bc")
    assert_same(loaded.state(), bc.state())
    assert type(loaded.optimizer) is type(bc.optimizer)
    assert loaded.observation_space == bc.observation_space
    assert loaded.action_space == bc.action_space


def test_double_precision_and_frozen_layers_and_normalisers_come_back(tmp_path: Path) -> None:
    policy = FeedForward32Policy(OBS, ACT, lambda _: 1e-3, features_extractor_class=NormalizeFeaturesExtractor).double()
    policy.value_net.weight.requires_grad_(False)
    bc = make_bc(policy=policy)
    bc.train(n_epochs=2, progress_bar=False)
    bc.save(tmp_path / "bc")
    loaded = load(tmp_path / "bc")
    assert_same(loaded.state(), bc.state())
    assert loaded.state()["frozen"] == ["value_net.weight"]
    assert next(loaded.policy.parameters()).dtype == torch.float64


class OwnOptimizer(torch.optim.SGD):
    pass


def test_what_no_file_can_hold_is_asked_for(tmp_path: Path) -> None:
    make_bc(optimizer_cls=OwnOptimizer, optimizer_kwargs={"lr": 0.1}).save(tmp_path / "optimizer")
    with pytest.raises(ConfigError, match="optimizer_cls=OwnOptimizer"):
        load(tmp_path / "optimizer")
    assert type(load(tmp_path / "optimizer", optimizer_cls=OwnOptimizer).optimizer) is OwnOptimizer
    with pytest.raises(ConfigError, match="saved with, OwnOptimizer"):
        load(tmp_path / "optimizer", optimizer_cls=torch.optim.SGD)
    make_bc(lr_schedule=lambda remaining: 1e-3 * remaining).save(tmp_path / "schedule")
    with pytest.raises(ConfigError, match="lr_schedule"):
        load(tmp_path / "schedule")
    load(tmp_path / "schedule", lr_schedule=lambda remaining: 1e-3 * remaining).train(n_epochs=1, progress_bar=False)


class OwnExtractor(FlattenExtractor):
    pass


def test_a_class_of_the_users_comes_from_the_user(tmp_path: Path) -> None:
    make_bc(policy=FeedForward32Policy(OBS, ACT, lambda _: 1e-3, features_extractor_class=OwnExtractor)).save(
        tmp_path / "bc"
    )
    with pytest.raises(ConfigError, match="OwnExtractor"):
        load(tmp_path / "bc")
    loaded = load(tmp_path / "bc", custom_objects={"OwnExtractor": OwnExtractor})
    assert type(loaded.policy.features_extractor) is OwnExtractor


def test_a_run_folder_loads_its_newest_checkpoint(tmp_path: Path) -> None:
    bc = make_bc()
    bc.train(n_epochs=3, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=2))
    assert_same(load(tmp_path).state(), bc.state())


@pytest.mark.defect("B24")
def test_clone_save_load_and_learn_on_with_ppo(tmp_path: Path, rng: np.random.Generator) -> None:
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=2)
    bc = make_bc(observation_space=venv.observation_space, action_space=venv.action_space)
    bc.train(n_epochs=1, progress_bar=False)
    bc.save(tmp_path / "bc")
    loaded = load(tmp_path / "bc")
    assert loaded.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    ppo = PPO(FeedForward32Policy, venv, n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    ppo.policy = loaded.policy
    ppo.learn(64)
    assert all(torch.isfinite(p).all() for p in ppo.policy.parameters())
    pairs = zip(ppo.policy.state_dict().values(), bc.policy.state_dict().values(), strict=True)
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    assert 0 < largest < 0.1
    venv.close()


def test_a_loader_is_resumed_between_its_passes(tmp_path: Path) -> None:
    """Its order comes from torch's generator, which each leg seeds."""

    def run(folder: Path, stop_at: int | None) -> dict[str, Any] | None:
        rows = TransitionsMinimal(obs=DATA["obs"], acts=DATA["acts"], infos=np.array([{}] * 100))
        loader = DataLoader(rows, batch_size=10, shuffle=True, collate_fn=transitions_collate_fn)  # type: ignore[arg-type]
        bc = make_bc(demonstrations=loader)
        seen = 0

        def stop() -> None:
            nonlocal seen
            seen += 1
            if seen == stop_at:
                raise ZeroDivisionError

        try:
            bc.train(
                n_epochs=4,
                progress_bar=False,
                on_batch_end=stop,
                checkpoints=Checkpoints(folder, every=5, resume=True),
            )
        except ZeroDivisionError:
            return None
        return bc.state()

    unbroken = run(tmp_path / "unbroken", None)
    assert run(tmp_path / "stopped", 27) is None
    assert_same(run(tmp_path / "stopped", None), unbroken)


def test_nothing_is_saved_of_a_diverged_leg(tmp_path: Path) -> None:
    from understudy.errors import TrainingDivergedError

    bc = make_bc(optimizer_cls=torch.optim.SGD, optimizer_kwargs={"lr": 1e38})
    with pytest.raises(TrainingDivergedError):
        bc.train(n_epochs=50, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=3))
    assert all(torch.isfinite(p).all() for p in load(tmp_path).policy.parameters())


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        BC.load(tmp_path / "nothing")
    bc = make_bc()
    bc.save(tmp_path / "bc")
    wide = make_bc(policy=FeedForward32Policy(OBS, ACT, lambda _: 1e-3, net_arch=[64]))
    checkpoint = read_checkpoint(tmp_path / "bc")
    with pytest.raises(CheckpointError, match="action_net"):
        wide.restore(checkpoint.state["trainer"], checkpoint.path)
    sgd = make_bc(optimizer_cls=torch.optim.SGD)
    with pytest.raises(CheckpointError):
        sgd.restore({**checkpoint.state["trainer"], "optimizer": {"state": {}, "param_groups": []}}, checkpoint.path)


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"trainer": None, "run": None},
        {"trainer": {"options": {"x": 1}}, "run": None},
        {"trainer": {"options": 3}, "run": None},
        {"trainer": {"frozen": 1}},
        {"trainer": {"rng": {"bit_generator": "__class__"}}},
        {"trainer": {"logger": 3}},
        {"trainer": {"optimizer": []}},
        {"run": {"seed": 1}},
        {"run": {"identity": {}, "seed": 0, "leg": 0, "finished": False, "training": 7}},
    ],
)
def test_a_state_of_another_form_is_refused(state: Any, tmp_path: Path) -> None:
    """The manifest is in order; what it vouches for is not."""
    bc = make_bc()
    bc.train(n_batches=2, progress_bar=False, checkpoints=Checkpoints(tmp_path / "run"))
    good = read_checkpoint(tmp_path / "run" / "step-000000000002").state
    if isinstance(state, dict) and set(state) == {"trainer"}:
        state = {"trainer": {**good["trainer"], **state["trainer"]}, "run": good["run"]}
    elif isinstance(state, dict) and set(state) == {"run"}:
        identity = {**state["run"], "identity": good["run"]["identity"]} if "training" in state["run"] else state["run"]
        state = {"trainer": good["trainer"], "run": identity}
    save = {"policy.safetensors": bc.save_policy}
    for step in (0, 2):
        write_checkpoint(tmp_path / "run" / f"step-{step:012d}", state, kind="BC", files=save)  # type: ignore[arg-type]
    if state is None or "run" not in state or state["run"] is None or state["trainer"] != good["trainer"]:
        with pytest.raises((CorruptFileError, CheckpointError)):
            load(tmp_path / "run")
    else:
        with pytest.raises((CorruptFileError, ConfigError)):
            make_bc().train(n_batches=2, progress_bar=False, checkpoints=Checkpoints(tmp_path / "run", resume=True))


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"every": 2.5}])
def test_lengths_below_one_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        Checkpoints(tmp_path, **options)


def test_a_class_without_state_says_so(tmp_path: Path) -> None:
    from understudy.algorithms.base import BaseImitationAlgorithm

    with pytest.raises(NotImplementedError, match="`state` and `restore`"):
        BaseImitationAlgorithm().save(tmp_path / "x")


def test_a_bit_generator_of_ones_own_is_told_when_saving(tmp_path: Path) -> None:
    class Own(np.random.PCG64):
        @property
        def state(self) -> dict[str, Any]:
            return {**super().state, "bit_generator": "Own"}

    with pytest.raises(ConfigError, match="NumPy's own"):
        make_bc(rng=np.random.Generator(Own(0))).save(tmp_path / "bc")


@pytest.mark.fault("F3")
def test_a_policy_where_a_folder_is_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileWriteError, match="taken"):
        make_bc().save_policy(tmp_path / "taken")


def test_many_held_out_episodes_fit_into_a_checkpoint(tmp_path: Path) -> None:
    """Each of 100,000 episodes as a line of text would be more than a checkpoint's text may have."""
    n = 300_000
    data = {"obs": np.zeros((n, 4), np.float32), "acts": np.arange(n) % 2, "episode_ends": np.arange(1, n + 1)}
    bc = make_bc(demonstrations=data, batch_size=4096)
    options: dict[str, Any] = {"n_batches": 2, "progress_bar": False, "validation_fraction": 0.4}
    result = bc.train(**options, checkpoints=Checkpoints(tmp_path))
    assert len(result.held_out_episodes) == 120_000
    again = make_bc(demonstrations=data, batch_size=4096)
    assert again.train(**options, checkpoints=Checkpoints(tmp_path, resume=True)) == result
