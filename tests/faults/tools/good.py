"""One good file of every kind that a loader takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from tools.formats import FORMATS, policy
from tools.hostile_archives import model_members, zipped
from tools.loaders import DISCRETE, QUIET
from understudy.algorithms import bc
from understudy.policies.vec_normalize import save_vec_normalize


def good_files(folder: Path) -> list[Path]:
    """Written; each in a folder of its own."""
    made = []
    for name, form in FORMATS.items():
        made.append(folder / f"of-{name}" / name)
        form.save(made[-1], 1)
    model = folder / "of-model" / "model.zip"
    model.parent.mkdir()
    model.write_bytes(zipped(model_members().items()))
    statistics = folder / "of-statistics" / "vec_normalize.pkl"
    statistics.parent.mkdir()
    VecNormalize(DISCRETE).save(str(statistics))
    sealed = folder / "of-sealed-statistics" / "vec_normalize.safetensors"
    save_vec_normalize(VecNormalize(DISCRETE), sealed)
    return [*made, model, statistics, sealed, trainer(folder / "of-trainer" / "trainer")]


def trainer(path: Path) -> Path:
    """A small BC, saved."""
    rows = {"obs": np.zeros((8, 3), np.float32), "acts": np.zeros(8, np.int64)}
    made = bc.BC(
        observation_space=DISCRETE.observation_space,
        action_space=DISCRETE.action_space,
        rng=0,
        policy=policy(0),
        demonstrations=rows,
        device="cpu",
        custom_logger=QUIET,
    )
    made.train(n_batches=1, progress_bar=False)
    made.save(path)
    return path
