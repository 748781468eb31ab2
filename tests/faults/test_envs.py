"""Environments in processes of their own that raise, die, hang or are stopped; and parents that do (F12, F13)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.misbehaving_env import EPISODE, Fault, Misbehaving, When

from understudy.data import rollout
from understudy.errors import ConfigError, EnvCrashedError, EnvTimeoutError
from understudy.util import guarded_vec_env
from understudy.util.guarded_vec_env import GuardedSubprocVecEnv

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),  # Python ≥ 3.12, where threads have started
]

SEEDS = (17, 18, 19)
NONE = np.zeros(3, np.int64)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def seconds(work: Callable[[], Any]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


Make = Callable[..., GuardedSubprocVecEnv]


@pytest.fixture
def make() -> Iterator[Make]:
    """Three environments, one of which misbehaves; closed within 5 s afterwards, and no process left."""
    made: list[GuardedSubprocVecEnv] = []

    def make(
        fault: Fault | None = None, when: When = "step", *, bad: int = 1, at_step: int = 1, **kwargs: Any
    ) -> GuardedSubprocVecEnv:
        fns = [Misbehaving(fault, when, at_step) if i == bad else Misbehaving() for i in range(3)]
        venv = GuardedSubprocVecEnv(fns, **{"start_method": "fork", "seeds": SEEDS, **kwargs})
        made.append(venv)
        return venv

    yield make
    for venv in made:
        assert seconds(venv.close) <= 5
        assert not [process.pid for process in venv.processes if runs(process.pid)]
        assert all(remote.connection.closed for remote in venv.remotes)
        venv.close()  # a second time: nothing to do


def caught(work: Callable[[], Any], within: float = 1.0) -> EnvCrashedError:
    start = time.monotonic()
    with pytest.raises(EnvCrashedError) as error:
        work()
    assert time.monotonic() - start <= within
    return error.value


@pytest.mark.fault("F12")
@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("when", ["reset", "step"])
@pytest.mark.parametrize(
    ("fault", "got"),
    [
        ("raise", "ValueError: the floor is missing"),
        ("exit", "exit code 3"),
        ("kill", "by SIGKILL, as when memory runs out"),
        ("segfault", "by SIGSEGV"),
        ("sys_exit", "SystemExit: 4"),
        ("eof", "EOFError"),
    ],
)
def test_a_crash_is_named(make, fault, got, when, bad):
    venv = make(fault, when, bad=bad, at_step=EPISODE + 2)
    if when == "step":
        venv.reset()
        for _ in range(EPISODE + 1):
            venv.step(NONE)
        error = caught(lambda: venv.step(NONE))
    else:
        error = caught(venv.reset)
    assert type(error) is EnvCrashedError
    assert (error.index, error.seed, error.step) == (bad, SEEDS[bad], 2 if when == "step" else 0)
    assert got in error.got
    assert f"environment {bad} to {when}" in error.expected
    assert ("the floor is missing" in error.remote_traceback) == (fault == "raise")
    if fault == "raise":
        assert "misbehaving_env.py" in error.remote_traceback
        assert error.remote_traceback in str(error)
    again = caught(venv.reset)  # nothing else is to be had from them
    assert str(again) == str(error)


@pytest.mark.fault("F12")
@pytest.mark.parametrize(("fault", "got"), [("raise", "the floor is missing"), ("exit", "exit code 3")])
def test_one_that_cannot_be_made(make, fault, got):
    error = caught(lambda: make(fault, "init"), within=5)
    assert (error.index, error.step) == (1, 0)
    assert got in error.got
    assert "being made" in error.expected


@pytest.mark.fault("F12")
@pytest.mark.parametrize(
    "call",
    [
        lambda venv: venv.env_method("blow_up", indices=[2]),
        lambda venv: venv.get_attr("no_such_thing", indices=2),
        lambda venv: venv.remotes[2].send(("no_such_command", None)) or venv.get_attr("note"),
        lambda venv: venv.env_method("answer", lambda: None, indices=2),  # cannot be pickled
    ],
)
def test_other_calls(make, call):
    venv = make()
    venv.reset()
    with pytest.raises(Exception, match=r"blown up|no_such_thing|no_such_command|pickle") as error:
        call(venv)
    if isinstance(error.value, EnvCrashedError):
        assert error.value.index == 2
    else:
        assert venv.get_attr("note") == ["untouched"] * 3  # nothing was sent


@pytest.mark.fault("F12")
def test_the_seed_is_the_last_one_given(make):
    venv = make("raise", at_step=1)
    venv.seed(100)
    venv.reset()
    venv.reset()
    assert caught(lambda: venv.step(NONE)).seed == 101


@pytest.mark.fault("F12")
def test_one_that_died_between_two_calls(make):
    venv = make()
    venv.reset()
    os.kill(venv.processes[2].pid, signal.SIGKILL)
    error = caught(lambda: venv.step(NONE))
    assert error.index == 2
    assert "SIGKILL" in error.got


@pytest.mark.fault("F12", "F13")
def test_the_first_to_fail_is_named_not_the_first_in_order(monkeypatch):
    monkeypatch.setattr(guarded_vec_env, "_SECONDS_TO_CLOSE", 0.5)
    fns = [Misbehaving("hang"), Misbehaving(), Misbehaving("raise")]
    venv = GuardedSubprocVecEnv(fns, "fork", step_timeout=60)
    venv.reset()
    error = caught(lambda: venv.step(NONE))
    assert error.index == 2
    assert seconds(venv.close) <= 5
    assert not [p.pid for p in venv.processes if runs(p.pid)]


@pytest.mark.fault("F13")
@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize("when", ["reset", "step"])
@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_a_silence_is_named_in_time(make, fault, when, bad):
    venv = make(fault, when, bad=bad, at_step=3, step_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(EnvTimeoutError) as error:  # noqa: PT012
        venv.reset()
        for _ in range(3):
            start = time.monotonic()
            venv.step(NONE)
    assert 0.4 <= time.monotonic() - start <= 1.5
    assert isinstance(error.value, TimeoutError)
    assert (error.value.index, error.value.seed) == (bad, SEEDS[bad])
    assert error.value.step == (3 if when == "step" else 0)
    assert error.value.got == "none in 0.5 s"
    assert seconds(venv.close) <= 1  # nobody waits for it


@pytest.mark.fault("F13")
def test_one_that_hangs_while_it_is_made(make, monkeypatch):
    monkeypatch.setattr(guarded_vec_env, "_SECONDS_TO_START", 0.3)
    monkeypatch.setattr(guarded_vec_env, "_SECONDS_TO_START_EACH", 0.0)
    error = caught(lambda: make("hang", "init", bad=2, step_timeout=0.3), within=5)
    assert isinstance(error, EnvTimeoutError)
    assert error.index == 2


@pytest.mark.fault("F13")
def test_half_an_answer(make):
    venv = make(step_timeout=0.5)
    remote = venv.remotes[1]
    remote.send(("env_method", ("large", (10_000_000,), {})))  # more than a pipe holds
    assert remote.connection.poll(5)
    os.kill(venv.processes[1].pid, signal.SIGSTOP)
    error = caught(remote.recv, within=1.5)
    assert isinstance(error, EnvTimeoutError)
    assert error.index == 1


@pytest.mark.fault("F13")
def test_a_question_that_nobody_takes(make):
    venv = make(step_timeout=0.5)
    os.kill(venv.processes[1].pid, signal.SIGSTOP)
    error = caught(lambda: venv.env_method("answer", bytes(10_000_000)), within=1.5)
    assert isinstance(error, EnvTimeoutError)
    assert error.index == 1


@pytest.mark.fault("F13")
@pytest.mark.parametrize("state", ["stopped", "in a step", "an answer waits", "answers larger than a pipe"])
def test_closing_in_any_state(make, state, monkeypatch):
    if state == "stopped":  # the other case of waiting in vain takes its full time
        monkeypatch.setattr(guarded_vec_env, "_SECONDS_TO_CLOSE", 0.5)
    venv = make("hang" if state == "in a step" else None, step_timeout=None)
    venv.reset()
    if state == "stopped":
        os.kill(venv.processes[0].pid, signal.SIGSTOP)
    elif state == "answers larger than a pipe":
        for remote in venv.remotes:
            remote.send(("env_method", ("large", (10_000_000,), {})))
    else:
        venv.step_async(NONE)
    took = seconds(venv.close)
    assert took <= (5 if state in ("stopped", "in a step") else 2)
    if state not in ("stopped", "in a step"):
        assert [process.exitcode for process in venv.processes] == [0, 0, 0]  # each could close its environment


@pytest.mark.fault("F13")
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_is_above_zero(seconds):
    with pytest.raises(ConfigError, match="step_timeout"):
        GuardedSubprocVecEnv([Misbehaving()], step_timeout=seconds)


@pytest.mark.fault("F12")
def test_ctrl_c_is_for_the_parent(make, capfd):
    venv = make()
    venv.reset()
    for process in venv.processes:
        os.kill(process.pid, signal.SIGINT)
    assert venv.step(NONE)[1].tolist() == [1, 1, 1]
    venv.close()
    assert capfd.readouterr().err == ""


@pytest.mark.fault("F12")
def test_collected_without_close():
    venv = GuardedSubprocVecEnv([Misbehaving(), Misbehaving()], "fork")
    os.kill(venv.processes[0].pid, signal.SIGSTOP)
    pids = [process.pid for process in venv.processes]
    del venv
    assert not any(map(runs, pids))


_PARENT = """
    import os, signal, sys
    import numpy as np
    from tools.misbehaving_env import Misbehaving
    from understudy.util.guarded_vec_env import GuardedSubprocVecEnv

    if __name__ == "__main__":
        method, fault, end = sys.argv[1:]
        venv = GuardedSubprocVecEnv([Misbehaving(), Misbehaving(fault)], method, step_timeout=None)
        venv.reset()
        venv.step_async(np.zeros(2, np.int64))
        venv.remotes[0].recv()
        print(*[process.pid for process in venv.processes], flush=True)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault("F12", "F13")
@pytest.mark.parametrize(
    ("method", "fault", "end"),
    [
        ("fork", "stop", "kill"),
        ("fork", "stop", "exit"),
        ("forkserver", "hang", "kill"),
        ("spawn", "stop", "kill"),
    ],
)
def test_no_orphans_of_a_parent_that_ends(tmp_path, method, fault, end):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(_PARENT))
    paths = [str(Path(__file__).parent), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, str(script), method, fault, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert parent.wait(5) == (-signal.SIGKILL if end == "kill" else 0)
    deadline = time.monotonic() + 5
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = [pid for pid in pids if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.mark.fault("F12")
def test_finished_episodes_are_kept(make, rng):
    venv = make("exit", at_step=2 * EPISODE + 2)
    with pytest.raises(EnvCrashedError) as error:
        rollout.rollout(None, venv, rollout.make_min_episodes(1000), rng)
    finished = error.value.finished
    assert len(finished) == 6  # two of each environment
    for trajectory in finished:
        assert trajectory.terminal
        assert trajectory.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert trajectory.rews.tolist() == [1] * EPISODE
    assert caught(venv.reset).finished == ()  # of that rollout only


@pytest.mark.fault("F12")
def test_in_this_process_an_environment_raises_its_own_error(rng):
    from understudy.util.lean_vec_env import LeanDummyVecEnv

    venv = LeanDummyVecEnv([Misbehaving("raise", at_step=3)])
    with pytest.raises(ValueError, match="the floor is missing"):
        rollout.rollout(None, venv, rollout.make_min_episodes(1), rng)
