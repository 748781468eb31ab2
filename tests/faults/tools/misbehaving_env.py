"""An environment that goes wrong on cue."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from typing import Any, Literal

import gymnasium as gym
import numpy as np

Fault = Literal[
    "raise", "eof", "sys_exit", "exit", "kill", "segfault", "hang", "stop", "nan_obs", "inf_reward", "wrong_shape"
]
When = Literal["init", "reset", "step"]

EPISODE = 5
"""Steps until the environment ends by itself."""


class MisbehavingEnv(gym.Env[np.ndarray, Any]):
    """Counts its steps in its observation, shape (2,): steps since the reset, steps in all.

    Args:
        fault: what goes wrong; None for nothing.
        when: making it, resetting it, or its step ``at_step``, counted from 1 over all episodes.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        fault: Fault | None = None,
        when: When = "step",
        at_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        self.fault, self.when, self.at_step, self.render_mode = fault, when, at_step, render_mode
        self.in_episode = self.in_all = 0
        self.note = "untouched"
        if when == "init":
            self._go_wrong()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.in_episode = 0
        obs = self._obs()
        return (self._go_wrong(obs) if self.when == "reset" else obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.in_episode += 1
        self.in_all += 1
        obs, rew = self._obs(), 1.0
        if self.when == "step" and self.in_all == self.at_step:
            obs = self._go_wrong(obs)
            rew = np.inf if self.fault == "inf_reward" else rew
        return obs, rew, self.in_episode == EPISODE, False, {}

    def render(self) -> np.ndarray:
        return np.full((4, 4, 3), self.in_all, np.uint8)

    def answer(self, value: Any) -> Any:
        return value

    def large(self, n_bytes: int) -> bytes:
        return bytes(n_bytes)

    def blow_up(self) -> None:
        raise RuntimeError("blown up on request")

    def _obs(self) -> np.ndarray:
        return np.array([self.in_episode, self.in_all], np.float32)

    def _go_wrong(self, obs: np.ndarray | None = None) -> Any:
        match self.fault:
            case "raise":
                raise ValueError("the floor is missing")
            case "eof":
                raise EOFError("the level file ends early")
            case "sys_exit":
                raise SystemExit(4)
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # no report of pytest's fault handler
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                threading.Event().wait()
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "nan_obs":
                return np.full(2, np.nan, np.float32)
            case "wrong_shape":
                return np.zeros(3, np.float32)
        return obs


@dataclasses.dataclass(frozen=True)
class Misbehaving:
    """Makes a MisbehavingEnv; pickles under every start method."""

    fault: Fault | None = None
    when: When = "step"
    at_step: int = 1
    render_mode: str | None = None

    def __call__(self) -> MisbehavingEnv:
        return MisbehavingEnv(self.fault, self.when, self.at_step, self.render_mode)
