"""Something done between the rollouts of one ``learn`` of a Stable-Baselines3 learner."""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback


class BetweenRollouts(BaseCallback):
    """Calls functions when a rollout has been collected, and when it has been learned from; the last one included.

    The learner runs through one ``learn``, so its schedules, callbacks, progress bar and logger see a single run.
    What stands between two rollouts is done when the next one is about to begin, or when the training ends: by then the
    learner has made its updates.

    Args:
        function: called with the learner's environment steps so far, once it has learned.
        at_end: called when a rollout is complete, before it is learned from.
    """

    def __init__(
        self, function: Callable[[int], None] | None = None, *, at_end: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self._function = function
        self._at_end = at_end
        self._due = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._run()

    def _on_rollout_end(self) -> None:
        self._due = True
        if self._at_end is not None:
            self._at_end()

    def _on_training_end(self) -> None:
        self._run()

    def _run(self) -> None:
        if self._due:
            self._due = False
            if self._function is not None:
                self._function(self.model.num_timesteps)
