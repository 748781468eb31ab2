"""``understudy demo``: the whole way in one command, in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.scripts._cloning import Length
from understudy.scripts._parts import Environment, Evaluation
from understudy.scripts._run_folder import RunFolder, default_path
from understudy.scripts._sources import DemonstrationSource
from understudy.scripts.train_bc import TrainBC, clone

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Demo:
    """See an expert cloned: bundled expert, demonstrations, training, table, report.

    The same as `understudy train bc CartPole-v1` with a tenth of the episodes held out; at the end, open the
    report.html that it names.
    """

    env_id: str = "CartPole-v1"
    """Any environment with a bundled expert."""

    n_demonstrations: int = 50
    """Episodes of the expert to learn from."""

    n_epochs: int = 10
    """Passes over them."""

    n_eval_episodes: int = 100
    """Episodes each policy is evaluated for."""

    seed: int = 0
    """Decides everything random in this run."""

    out: Path | None = None
    """Run folder. None makes output/demo/ENVIRONMENT/TIME."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Clone and show; returns the exit code."""
        options = TrainBC(
            environment=Environment(env_id=self.env_id),
            source=DemonstrationSource(n_demonstrations=self.n_demonstrations),
            length=Length(n_epochs=self.n_epochs, validation_fraction=0.1),
            evaluation=Evaluation(n_eval_episodes=self.n_eval_episodes),
            seed=self.seed,
            progress_bar=self.progress_bar,
        )
        path = self.out or default_path("demo", self.env_id)
        return clone(options, RunFolder(path, verb="demo", options=options, seed=self.seed), console)
