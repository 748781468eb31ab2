"""Making the bundled experts: train a preset, measure it, write the policy and its certificate.

``python -m understudy.scripts.recipes_experts cartpole pendulum seals_cartpole`` makes them again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy.evaluation.returns import evaluate_returns
from understudy.evaluation.statistics import iqm
from understudy.policies.serialize import save_policy
from understudy.rl.recipes import PRESETS, Recipe, get_recipe
from understudy.rl.training import train_recipe
from understudy.util.files import write_atomically
from understudy.util.vec_env import make_vec_env
from understudy.util.versions import library_versions

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "policies" / "bundled"


def make_expert(recipe: Recipe, folder: Path, *, n_episodes: int = 200, eval_seed: int = 12345) -> dict[str, Any]:
    """Train, measure and write ``<env id>.safetensors`` and ``<env id>.json`` (a ``/`` in the id becomes ``__``).

    Args:
        recipe: what to train; one torch thread is used, so that the result repeats.
        folder: where the two files go.
        n_episodes: to measure over, once with deterministic actions and once with sampled ones.
        eval_seed: decides the episodes measured.

    Returns:
        The certificate, as written to the JSON file.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train_recipe(recipe)
    finally:
        torch.set_num_threads(threads)
    measured = {}
    for key, deterministic in (("returns", True), ("returns_when_sampling", False)):
        venv = make_vec_env(recipe.env_id, rng=np.random.default_rng(eval_seed), n_envs=8)
        try:
            episodes = evaluate_returns(
                model.policy, venv, n_episodes=n_episodes, seed=eval_seed, deterministic=deterministic
            )
        finally:
            venv.close()
        measured[key] = _describe(episodes.returns, deterministic, eval_seed)
    certificate = {
        "recipe": recipe.to_dict(),
        "torch_threads": 1,
        "versions": library_versions(),
        **measured,
    }
    stem = recipe.env_id.replace("/", "__")
    save_policy(model.policy, folder / f"{stem}.safetensors")
    write_atomically(folder / f"{stem}.json", (json.dumps(certificate, indent=2) + "\n").encode())
    return certificate


def _describe(returns: np.ndarray, deterministic: bool, seed: int) -> dict[str, Any]:
    return {
        "deterministic": deterministic,
        "n_episodes": len(returns),
        "seed": seed,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "iqm": float(iqm(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
    }


def main(names: list[str]) -> None:
    """Make the named presets' experts, or all of them."""
    for name in names or list(PRESETS):
        certificate = make_expert(get_recipe(name), BUNDLED_FOLDER)
        print(name, json.dumps(certificate["returns"]), json.dumps(certificate["returns_when_sampling"]))


if __name__ == "__main__":
    main(sys.argv[1:])
