"""The clone keeps acting while its critic learns what the clone is worth."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from understudy.algorithms._pretrain_families import family_of
from understudy.algorithms._pretrain_steps import trained_module
from understudy.errors import ConfigError


class HoldActor(BaseCallback):
    """Pass to ``model.learn``: in its first environment steps only the critic learns.

    An actor that climbs a critic which has seen nothing but demonstrations is soon somewhere else. Held back, it
    gathers the experience from which the critic learns the value of the clone itself, and improves on it then.
    (What is held: the parameters that decide the action, in any actor-critic model. Entropy coefficients learn on.)

    Args:
        n_timesteps: environment steps, summed over copies, ≥ 1.

    Raises:
        ConfigError: at the start of learning, for a model whose actor is its critic (DQN, QRDQN).
    """

    def __init__(self, n_timesteps: int) -> None:
        super().__init__()
        if n_timesteps < 1:
            raise ConfigError(expected="`n_timesteps` ≥ 1", got=str(n_timesteps), do="leave the callback out")
        self.n_timesteps = n_timesteps
        self._held: list[nn.Parameter] = []
        self._until = 0

    def _on_training_start(self) -> None:
        family = family_of(self.model)
        if family in ("q_values", "quantiles"):
            raise ConfigError(
                expected="a model with an actor and a critic",
                got=type(self.model).__name__,
                do="leave the callback out: its Q-values are both",
            )
        self._until = self.model.num_timesteps + self.n_timesteps
        parameters = trained_module(self.model, family).named_parameters()
        if family == "actor":
            chosen = [p for _, p in parameters]
        else:
            chosen = [p for name, p in parameters if not is_of_critic(name)]
        self._held = [p for p in chosen if p.requires_grad]
        for parameter in self._held:
            parameter.requires_grad_(False)

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._until:
            self._release()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._release()

    def _release(self) -> None:
        for parameter in self._held:
            parameter.requires_grad_(True)
        self._held = []


def is_of_critic(name: str) -> bool:
    """Whether a parameter of an actor-critic policy serves the value alone, by Stable-Baselines3's names."""
    alone = ("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.", "lstm_critic.", "critic.")
    return name.startswith(alone)
