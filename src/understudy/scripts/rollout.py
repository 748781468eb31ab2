"""``understudy rollout``: record a policy into a dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.scripts._parts import Compute, Environment, at_least, check_seed, environment_closed, say
from understudy.scripts._policies import load_any_policy
from understudy.scripts._run_folder import default_path
from understudy.scripts._sources import record

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Record a policy in an environment as a dataset of trajectories.

    The dataset is an Arrow directory: understudy, Hugging Face datasets and pyarrow open it; a path ending in .npz
    gets one NumPy file instead.

        understudy rollout CartPole-v1 --policy bundled --n-episodes 50 --out data/cartpole
    """

    environment: Environment
    compute: Compute = dataclasses.field(default_factory=Compute)

    policy: str = "bundled"
    """Who acts: bundled, random, zero, or the path of a saved policy or run folder."""

    n_episodes: int = 50
    """Whole episodes to record."""

    deterministic: bool = True
    """Take the most probable action; sample if not."""

    seed: int = 0
    """Decides everything random in this recording."""

    out: Path | None = None
    """Where to write. None makes output/rollout/ENVIRONMENT/TIME."""

    def run(self, console: Console) -> int:
        """Record, save, print statistics."""
        from understudy.data import serialize
        from understudy.errors import ConfigError
        from understudy.scripts._summary import number, print_table, summarise

        path = self.out or default_path("rollout", self.environment.env_id)
        check_seed(self.seed)
        at_least(1, n_episodes=self.n_episodes)
        if path.exists():
            raise ConfigError("a path that is free", f"{path}, which exists", "choose another --out")
        with environment_closed(self.environment, self.seed) as venv, self.compute.limited(venv):
            policy = None if self.policy == "random" else load_any_policy(self.policy, venv, self.environment)
            with console.status("recording"):
                trajectories = record(policy, venv, self.n_episodes, self.seed, deterministic=self.deterministic)
        serialize.save(path, trajectories)
        lengths = [len(trajectory) for trajectory in trajectories]
        returns = [float(trajectory.rews.sum()) for trajectory in trajectories]
        print_table([summarise(self.policy, returns, lengths)], console, "Recorded")
        console.print()
        truncated = sum(trajectory.truncated for trajectory in trajectories)
        say(console, "steps", f"{sum(lengths)} (episodes of {number(min(lengths))} to {number(max(lengths))})")
        say(console, "ends", f"{truncated} by time limit, {len(trajectories) - truncated} by themselves")
        say(console, "dataset", f"[bold]{path}[/bold]")
        say(console, "next", f"understudy train bc {self.environment.env_id} --demonstrations {path}")
        return 0
