"""``understudy evaluate``: what policies earn, with intervals."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from understudy.errors import ConfigError
from understudy.scripts._parts import Compute, Environment, Evaluation, check_seed, environment_closed
from understudy.scripts._policies import Expert, load_any_policy

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate policies in an environment.

    Prints the interquartile mean (IQM: the mean of the middle half of the episodes) with its 95 % bootstrap interval
    over episodes. All policies meet the same seeds.

        understudy evaluate CartPole-v1 --policy random bundled output/bc/CartPole-v1/2026-01-01_12-00-00
    """

    environment: Environment

    policy: tuple[str, ...] = ("bundled",)
    """Who acts, one or several: bundled, random, zero, human, module:name, hub:ORG/ALGO-ENV, or paths of policies."""

    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    compute: Compute = dataclasses.field(default_factory=Compute)

    seed: int = 0
    """Decides environments and sampled actions."""

    json: bool = False
    """Print one JSON object with every episode instead of a table."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console) -> int:
        """Evaluate and print."""
        from understudy.scripts._run_folder import plain
        from understudy.scripts._summary import few_episodes, print_table, summarise_all
        from understudy.scripts._training import evaluate_all

        check_seed(self.seed)
        self.evaluation.check()
        if not self.policy:
            raise ConfigError("at least one --policy", "none", "pass for example --policy random bundled")
        environment = Expert("human" if "human" in self.policy else "none").where(self.environment)
        with environment_closed(environment, self.seed) as venv, self.compute.limited(venv):
            policies = {
                name: None if name == "random" else load_any_policy(name, venv, environment) for name in self.policy
            }
            returns = evaluate_all(
                policies,
                environment,
                self.evaluation,
                self.seed,
                progress_bar=self.progress_bar and not self.json and "human" not in self.policy,
            )
        rows = summarise_all(returns)
        if self.json:
            answer = {"env_id": self.environment.env_id, "seed": self.seed, "summaries": rows, "episodes": returns}
            print(json.dumps(plain(answer), allow_nan=False))
        else:
            print_table(rows, console, f"Returns in {self.environment.env_id}")
            for note in few_episodes(rows):
                console.print(note, style="dim", highlight=False)
        return 0
