"""Trainings that are killed, stopped, or begun twice: the same bytes come out, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from tools.child import fork, in_child, wait_for
from tools.kill import boundaries, kill_at
from tools.limits import limit_fsize
from tools.states import sha_state
from torch import nn

from understudy.algorithms.bc import BC
from understudy.algorithms.checkpoints import Checkpoints
from understudy.data.types import DictObs, Trajectory
from understudy.errors import CheckpointError, ConfigError, RunLockedError, TrainingInterrupted
from understudy.policies.base import FeedForward32Policy
from understudy.util.checkpoint import all_checkpoints, latest, read_checkpoint, step_folder
from understudy.util.files import staged_name
from understudy.util.interrupts import StopSignals
from understudy.util.logger import configure
from understudy.util.run_lock import RunLock

ROWS, ACTIONS = 200, 3


class Dropping(FlattenExtractor):
    """Draws from torch's generator at every step of the training."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        self.dropout = nn.Dropout(0.2)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.dropout(super().forward(observations))


VECTOR = spaces.Box(-9, 9, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
SPACES: dict[str, spaces.Space[Any]] = {
    "mlp": VECTOR,
    "dropout": VECTOR,
    "validation": VECTOR,
    "cnn": IMAGE,
    "dict": spaces.Dict({"place": VECTOR, "phase": spaces.Discrete(3)}),
    "recurrent": VECTOR,
}


def episodes(kind: str) -> list[Trajectory]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(4):
        n = ROWS // 4
        vectors = rng.normal(size=(n + 1, 4)).astype(np.float32)
        obs: Any = vectors
        if kind == "cnn":
            obs = rng.integers(0, 256, (n + 1, 1, 36, 36), dtype=np.uint8)
        elif kind == "dict":
            obs = DictObs({"place": vectors, "phase": rng.integers(0, 3, n + 1)})
        found.append(Trajectory(obs=obs, acts=rng.integers(0, ACTIONS, n), infos=None, terminal=True))
    return found


def make(kind: str, **options: Any) -> BC:
    space = SPACES[kind]
    policy = None
    if kind == "cnn":
        torch.manual_seed(0)
        policy = ActorCriticCnnPolicy(space, spaces.Discrete(ACTIONS), lambda _: 1e-3)
    if kind == "dropout":
        torch.manual_seed(0)
        policy = FeedForward32Policy(space, spaces.Discrete(ACTIONS), lambda _: 1e-3, features_extractor_class=Dropping)
    if kind == "recurrent":  # sequences of 16, 16, 16 and 2 steps, three to a batch: six batches a pass
        torch.manual_seed(0)
        policy = RecurrentActorCriticPolicy(
            space, spaces.Discrete(ACTIONS), lambda _: 1e-3, lstm_hidden_size=8, net_arch=[8]
        )
        options = {"sequence_length": 16, "burn_in": 4, **options}
    return BC(
        observation_space=space,
        action_space=spaces.Discrete(ACTIONS),
        rng=0,
        **{"policy": policy, **options},
        demonstrations=episodes(kind),
        custom_logger=configure(format_strs=[]),
    )


def train(kind: str, folder: Path, *, on_batch_end: Callable[[], None] | None = None, **options: Any) -> BC:
    """Six passes of seven batches, or of six with a quarter held out, in legs of five batches."""
    bc = make(kind)
    wishes = {"validation_fraction": 0.25, "patience": 5} if kind == "validation" else {}
    checkpoints = Checkpoints(folder, every=5, resume=True, **options)
    bc.train(n_epochs=6, progress_bar=False, on_batch_end=on_batch_end, checkpoints=checkpoints, **wishes)
    return bc


@pytest.fixture(scope="module", autouse=True)
def _imports_done() -> None:
    """Making an optimiser imports half of torch; every forked child would do so again."""
    make("mlp")


def sha_after(kind: str, folder: Path) -> str:
    return in_child(lambda: sha_state(train(kind, folder)))


def killed_at_batch(kind: str, folder: Path, batch: int) -> bool:
    """Whether it lived long enough to be killed after its own ``batch``-th step."""

    def work(mark: Callable[[int], None]) -> None:
        left = batch

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        train(kind, folder, on_batch_end=count)

    return kill_at(work, seconds=None, boundary=10**9).killed


@pytest.mark.fault("F2", "F24")
@pytest.mark.parametrize("kind", SPACES)
def test_killed_three_times_and_resumed_is_unbroken_is_rerun(kind: str, tmp_path: Path) -> None:
    unbroken = sha_after(kind, tmp_path / "unbroken")
    rerun = sha_after(kind, tmp_path / "rerun")
    for batch in (8, 13, 9):
        assert killed_at_batch(kind, tmp_path / "killed", batch)
    newest = latest(tmp_path / "killed")
    assert newest is not None
    assert newest != step_folder(tmp_path / "killed", 0)
    assert {sha_after(kind, tmp_path / "killed"), rerun} == {unbroken}


def killed_before_changes(folder: Path, expected: str, chosen: Callable[[int], list[int]]) -> int:
    def work(mark: Callable[[int], None], where: Path = folder / "plain") -> None:
        train("mlp", where)

    n = len(boundaries(work))
    for i in chosen(n):
        where = folder / f"at-{i}"
        death = kill_at(lambda mark, where=where: work(mark, where), boundary=i)
        assert death.killed
        assert sha_after("mlp", where) == expected, f"killed before change {i} of {n}"
    return n


@pytest.mark.fault("F1", "F2")
def test_killed_before_changes_to_the_file_system(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    n = killed_before_changes(tmp_path, expected, lambda n: sorted({1, 2, n - 1, *range(3, n, n // 6)}))
    assert n > 50


@pytest.mark.slow
@pytest.mark.fault("F1", "F2")
def test_killed_before_every_change_to_the_file_system(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    n = killed_before_changes(tmp_path, expected, lambda n: list(range(n)))
    print(f"killed before each of {n} changes: all resumed to the same bytes")


@pytest.mark.fault("F4")
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    assert killed_at_batch("mlp", tmp_path / "run", 23)
    newest = latest(tmp_path / "run")
    assert newest == step_folder(tmp_path / "run", 20)
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert latest(tmp_path / "run") == step_folder(tmp_path / "run", 15)
    assert "step-000000000020" in caplog.text
    assert sha_after("mlp", tmp_path / "run") == expected


@pytest.mark.fault("F3")
def test_a_full_disk_stops_the_run_and_spares_the_last_checkpoint(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")

    def work() -> str:
        with limit_fsize(1_000):
            try:
                train("mlp", tmp_path / "run")
            except CheckpointError as error:
                return str(error)
        return "no error"

    assert killed_at_batch("mlp", tmp_path / "run", 12)
    before = latest(tmp_path / "run")
    assert "step-000000000015" in in_child(work)
    assert latest(tmp_path / "run") == before
    assert sha_after("mlp", tmp_path / "run") == expected


# --- one process a folder ---------------------------------------------------------------------------------------


@pytest.mark.fault("F15")
def test_a_second_process_is_refused_at_once_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from understudy.util.run_lock import RunLock
with RunLock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        start = time.perf_counter()
        with pytest.raises(RunLockedError, match=f"process {holder.pid} on {os.uname().nodename}"):
            train("mlp", tmp_path)
        assert time.perf_counter() - start < 1
        holder.kill()
        holder.wait()
    assert (tmp_path / ".lock").exists()
    train("mlp", tmp_path)


@pytest.mark.fault("F15")
def test_a_backup_of_the_folder_does_not_lose_the_lock_and_a_fork_does_not_keep_it(tmp_path: Path) -> None:
    def locked_for_others() -> bool:
        code = f"""
from pathlib import Path
from understudy.errors import RunLockedError
from understudy.util.run_lock import RunLock
try:
    with RunLock(Path({str(tmp_path / "run")!r})): print("free")
except RunLockedError: print("locked")
"""
        return subprocess.check_output([sys.executable, "-c", code], text=True) == "locked\n"

    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    with lock:
        shutil.copytree(tmp_path / "run", tmp_path / "backup")
        assert locked_for_others()
        reading, writing = os.pipe()
        child = fork(lambda: os.read(reading, 1))
    assert not locked_for_others()  # the child is alive
    os.write(writing, b"x")
    assert wait_for(child, 5) == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.fault("F15")
def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunLockedError, match=f"process {os.getpid()}"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


# --- stopping ---------------------------------------------------------------------------------------------------


def stopped(folder: Path, sig: int, *, seconds: float | None = None, batch: int | None = None) -> tuple[int, int]:
    """Exit code and batches made of a training that is sent a signal, after a time or by itself after a batch."""

    def work(mark: Callable[[int], None]) -> None:
        made = 0

        def count() -> None:
            nonlocal made
            made += 1
            mark(made)
            if batch is None:
                time.sleep(0.004)  # slow enough to be met by it
            elif made == batch:
                os.kill(os.getpid(), sig)

        try:
            train("mlp", folder, on_batch_end=count)
        except TrainingInterrupted as stopped:
            os._exit(128 + stopped.signal)

    if batch is None:
        death = kill_at(work, seconds=seconds, sig=sig, limit=10)
    else:
        death = kill_at(work, boundary=10**9, sig=sig, limit=10)
    return death.code, death.marked


def check_snapshot(folder: Path, batch: int) -> None:
    snapshot = read_checkpoint(folder / "snapshot", kind="BC")
    assert snapshot.state["run"]["training"]["progress"]["batch"] == batch
    loaded = BC.load(folder / "snapshot", episodes("mlp"), custom_logger=configure(format_strs=[]))
    loaded.train(n_batches=1, progress_bar=False)


@pytest.mark.fault("F27")
@pytest.mark.parametrize(("sig", "batch"), [(2, 1), (15, 5), (2, 17), (15, 20), (2, 41)])
def test_a_signal_leaves_a_snapshot_and_an_exact_resume(sig: int, batch: int, tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    assert stopped(tmp_path / "run", sig, batch=batch) == (128 + sig, batch)
    check_snapshot(tmp_path / "run", batch)
    assert sha_after("mlp", tmp_path / "run") == expected


@pytest.mark.fault("F27")
def test_a_signal_in_the_last_batch_is_not_lost(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    assert stopped(tmp_path / "run", signal.SIGTERM, batch=42) == (128 + signal.SIGTERM, 42)
    assert sha_after("mlp", tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.fault("F27")
def test_a_hundred_signals(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    rng = np.random.default_rng()
    codes: dict[int, int] = {}
    for i in range(100):
        where = tmp_path / f"run-{i}"
        sig = (signal.SIGINT, signal.SIGTERM)[i % 2]
        code, made = stopped(where, sig, seconds=rng.uniform(0, 0.25))
        codes[code] = codes.get(code, 0) + 1
        if made > 0:  # the handlers stand from before the first batch on
            assert code in (128 + sig, 0)
        if code == 128 + sig and (where / "snapshot").exists():
            check_snapshot(where, made)
        assert sha_after("mlp", where) == expected
    print(f"exit codes of 100 signals: {codes}")
    assert codes.get(130, 0) + codes.get(143, 0) >= 50


@pytest.mark.fault("F27")
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_it_at_once(sig: signal.Signals, tmp_path: Path) -> None:
    def work(mark: Callable[[int], None]) -> None:
        with StopSignals() as stop:
            os.kill(os.getpid(), sig)
            assert stop.received == sig
            mark(1)
            os.kill(os.getpid(), sig)
            mark(2)

    death = kill_at(work, boundary=10**9, sig=sig)
    assert (death.code, death.marked) == (-sig, 1)


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- what a resumed run must share with the one before ----------------------------------------------------------


def test_checkpoints_are_never_overwritten_unasked(tmp_path: Path) -> None:
    train("mlp", tmp_path)
    with pytest.raises(ConfigError, match="resume=True"):
        make("mlp").train(n_epochs=6, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=5))


@pytest.mark.parametrize(
    ("options", "wishes", "named"),
    [
        ({"batch_size": 16}, {}, "batch_size=32"),
        ({"ent_weight": 0.5}, {}, "ent_weight=0.001"),
        ({}, {"n_epochs": 7}, "n_epochs=6"),
        ({"optimizer_kwargs": {"lr": 0.5}}, {}, r"optimizer lr=0\.001"),
        (
            {"policy": FeedForward32Policy(VECTOR, spaces.Discrete(ACTIONS), lambda _: 1e-3, activation_fn=nn.ReLU)},
            {},
            "policy=",
        ),
        ({"optimizer_cls": torch.optim.SGD, "optimizer_kwargs": {"lr": 0.1}}, {}, "optimizer='Adam'"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], wishes: dict[str, Any], named: str, tmp_path: Path) -> None:
    train("mlp", tmp_path)
    if "policy" in options:
        relu = FeedForward32Policy(VECTOR, spaces.Discrete(ACTIONS), lambda _: 1e-3, activation_fn=nn.ReLU)
        options = {"policy": relu}
    bc = make("mlp", **options)
    with pytest.raises(ConfigError, match=named):
        bc.train(
            **{"n_epochs": 6, **wishes}, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=5, resume=True)
        )


def test_other_demonstrations_are_refused(tmp_path: Path) -> None:
    train("mlp", tmp_path)
    bc = make("mlp")
    changed = episodes("mlp")
    obs = np.array(changed[2].obs)
    obs[7, 1] += 1e-3
    changed[2] = Trajectory(obs=obs, acts=changed[2].acts, infos=None, terminal=True)
    bc.set_demonstrations(changed)
    with pytest.raises(ConfigError, match="demonstrations="):
        bc.train(n_epochs=6, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=5, resume=True))


@pytest.mark.fault("F25")
def test_other_threads_are_refused_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks always use one thread; this one is large enough for several."""

    def run(threads: int, **options: Any) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        checkpoints = Checkpoints(tmp_path, resume=True, **options)
        make("cnn", batch_size=64).train(n_batches=2, progress_bar=False, checkpoints=checkpoints)

    run(2)
    with pytest.raises(ConfigError, match="threads=2"):
        run(1)
    run(1, allow_other_threads=True)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train("validation", tmp_path)
    steps: list[int] = []
    again = train("validation", tmp_path, on_batch_end=lambda: steps.append(1))
    assert steps == []
    assert sha_state(again) == sha_state(first)


def test_old_checkpoints_go(tmp_path: Path) -> None:
    train("mlp", tmp_path, keep=3)
    assert [path.name[-2:] for path in all_checkpoints(tmp_path)] == ["35", "40", "42"]


@pytest.mark.fault("F24")
def test_the_callers_generators_are_untouched(tmp_path: Path) -> None:
    import random

    bc = make("dropout")
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    bc.train(n_epochs=2, progress_bar=False, checkpoints=Checkpoints(tmp_path, every=5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_damaged_newer_checkpoints_do_not_push_out_the_good_ones(tmp_path: Path) -> None:
    expected = sha_after("mlp", tmp_path / "unbroken")
    assert in_child(lambda: train("mlp", tmp_path / "run", keep=20).path) == "closed_form"
    for path in all_checkpoints(tmp_path / "run")[3:]:
        (path / "state.json").write_text("{}")
    assert latest(tmp_path / "run") == step_folder(tmp_path / "run", 10)
    assert killed_at_batch("mlp", tmp_path / "run", 8)
    assert latest(tmp_path / "run") == step_folder(tmp_path / "run", 15)
    assert (tmp_path / "run" / "damaged-step-000000000042").is_dir()
    assert sha_after("mlp", tmp_path / "run") == expected


def test_what_killed_saves_left_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    train("mlp", tmp_path)
    for name in ("step-000000000010", "snapshot"):
        left = staged_name(tmp_path / name).name.split("-")
        left[-2] = str(2**22 + 1)  # above every process number that Linux gives
        (tmp_path / "-".join(left)).mkdir()
    train("mlp", tmp_path)
    assert [path.name for path in tmp_path.iterdir() if ".tmp-" in path.name] == []


class Counting(FlattenExtractor):
    """Training changes a buffer that a ``state_dict`` leaves out, and the features depend on it."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 0.01
        return super().forward(observations) + self.seen


def test_buffers_that_a_state_dict_leaves_out_are_kept(tmp_path: Path) -> None:
    def run(folder: Path, stop_at: int) -> str | None:
        policy = FeedForward32Policy(
            VECTOR, spaces.Discrete(ACTIONS), lambda _: 1e-3, features_extractor_class=Counting
        )
        bc = make("mlp", policy=policy)
        made = 0

        def stop() -> None:
            nonlocal made
            made += 1
            if made == stop_at:
                raise ZeroDivisionError

        try:
            checkpoints = Checkpoints(folder, every=5, resume=True)
            bc.train(n_epochs=3, progress_bar=False, on_batch_end=stop, checkpoints=checkpoints)
        except ZeroDivisionError:
            return None
        return sha_state(bc)

    torch.manual_seed(0)
    unbroken = run(tmp_path / "unbroken", -1)
    torch.manual_seed(0)
    assert run(tmp_path / "stopped", 13) is None
    assert run(tmp_path / "stopped", -1) == unbroken
