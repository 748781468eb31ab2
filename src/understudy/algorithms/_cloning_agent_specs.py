"""What an agent says of the data it collects and learns from."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from understudy.algorithms._cloning_agent_experience import Experience


@dataclasses.dataclass(frozen=True)
class TimeStepSpec:
    """What a policy sees at one step."""

    obs: gym.Space[Any]
    """The observation."""

    episode_start: gym.Space[Any]
    """Whether an episode begins."""


@dataclasses.dataclass(frozen=True)
class DataContext:
    """The spaces of everything that takes part."""

    time_step_spec: TimeStepSpec
    """Of what policies see."""

    action_spec: gym.Space[Any]
    """Of what they do."""

    info_spec: tuple[()] = ()
    """Of what they say beside it: nothing."""


class AgentSpecs:
    """The properties that describe data; each element of `Experience` is a space for one step, without outer axes."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @property
    def action_spec(self) -> gym.Space[Any]:
        """The action space."""
        return self.action_space

    @property
    def time_step_spec(self) -> TimeStepSpec:
        """What policies see at one step."""
        return TimeStepSpec(self.observation_space, spaces.Discrete(2))

    @property
    def collect_data_spec(self) -> Experience:
        """Spaces of one step of what ``collect_policy`` collects."""
        flag = spaces.Discrete(2)
        return Experience(self.observation_space, self.action_space, flag, flag, flag, flag)

    @property
    def training_data_spec(self) -> Experience:
        """Spaces of one step of what ``train`` takes."""
        return self.collect_data_spec

    @property
    def data_context(self) -> DataContext:
        """Spaces of everything that takes part in training."""
        return DataContext(self.time_step_spec, self.action_spec)

    @property
    def collect_data_context(self) -> DataContext:
        """Spaces of everything that takes part in collecting."""
        return self.data_context

    @property
    def train_sequence_length(self) -> None:
        """How many steps a sequence must have: any number."""
        return

    @property
    def summaries_enabled(self) -> bool:
        """Whether training logs: always."""
        return True
