"""Two ways round an obstacle: a Gaussian clone averages them, a mixture keeps them apart. Draws bimodal.png.

Run: python examples/two_right_answers.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from understudy import BC
from understudy.policies.heads import log_likelihood
from understudy.policies.mixture import MixturePolicy

PLACE = spaces.Box(-1, 1, (1,), np.float32)
SIDESTEP = spaces.Box(-2, 2, (1,), np.float32)


def demonstrations(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where on the way, and how far to step aside: left or right as the driver likes, most at the obstacle."""
    place = rng.uniform(-1, 1, (n, 1))
    aside = rng.choice([-1.0, 1.0], (n, 1)) * np.exp(-((place / 0.5) ** 2))
    return place.astype(np.float32), (aside + rng.normal(0, 0.07, (n, 1))).astype(np.float32)


def clone(policy: ActorCriticPolicy | None, data: tuple[np.ndarray, np.ndarray]) -> ActorCriticPolicy:
    bc = BC(
        observation_space=PLACE,
        action_space=SIDESTEP,
        policy=policy,
        demonstrations=data,
        optimizer_kwargs={"lr": 3e-3},
        rng=0,
    )
    bc.train(n_epochs=50, log_interval=10_000, progress_bar=False)
    return bc.policy


def density(policy: ActorCriticPolicy, places: np.ndarray, acts: np.ndarray) -> np.ndarray:
    """π(a | o) on a grid, shape (act, place)."""
    grid = np.stack(np.meshgrid(places, acts), -1).reshape(-1, 2).astype(np.float32)
    with torch.no_grad():
        terms = log_likelihood(policy, torch.from_numpy(grid[:, :1]), torch.from_numpy(grid[:, 1:]))
    return terms.log_prob.exp().numpy().reshape(len(acts), len(places))


def draw(clones: dict[str, ActorCriticPolicy], data: tuple[np.ndarray, np.ndarray], path: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.patches import Circle

    places, acts = np.linspace(-1, 1, 161), np.linspace(-1.6, 1.6, 161)
    figure, panels = plt.subplots(1, len(clones), figsize=(9, 3.7), sharey=True, layout="constrained")
    panel: Any
    for panel, (name, policy) in zip(panels, clones.items(), strict=True):
        likeliest, _ = policy.predict(places[:, None].astype(np.float32), deterministic=True)
        # The root shows what is faint as well.
        panel.contourf(
            places, acts, np.sqrt(density(policy, places, acts)), np.linspace(0.2, 2, 10), cmap="Blues", extend="max"
        )
        panel.scatter(*(column[:250] for column in data), s=5, color="0.25", linewidths=0, label="demonstrated")
        panel.plot(places[::5], likeliest[::5], "o", color="tab:orange", markersize=4, label="cloned, most likely")
        panel.add_patch(Circle((0, 0), 1, transform=_at(panel), color="tab:red", alpha=0.85, linewidth=0))
        panel.set_title(name, fontsize=11)
        panel.set_xlabel("observation: place on the way")
        panel.set_xticks([-1, -0.5, 0, 0.5, 1])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("action: step aside")
    panels[0].text(0, 0.3, "obstacle", color="tab:red", fontsize=9, ha="center")
    panels[1].legend(loc="upper right", fontsize=8, framealpha=0.9, markerscale=1.3)
    figure.savefig(path, dpi=90, pil_kwargs={"optimize": True})


def _at(panel: Any) -> Any:
    """Circles round on paper, whatever the axes' scales are: radius 1 is nine points."""
    from matplotlib.transforms import Affine2D, ScaledTranslation

    figure = panel.figure
    scale = Affine2D().scale(9 / 72) + figure.dpi_scale_trans
    return scale + ScaledTranslation(0, 0, panel.transData)


def main() -> None:
    data = demonstrations(1500, np.random.default_rng(0))
    torch.manual_seed(0)
    mixture = MixturePolicy(PLACE, SIDESTEP, net_arch=[32, 32], n_components=5)
    clones = {"One Gaussian averages two ways": clone(None, data), "A mixture keeps them apart": clone(mixture, data)}
    at_the_obstacle = np.zeros((1000, 1), np.float32)
    for name, policy in clones.items():
        acts, _ = policy.predict(at_the_obstacle)
        print(f"{name}: {(np.abs(acts) < 0.5).mean():.0%} of the answers at the obstacle hit it")
    draw(clones, data, "bimodal.png")


if __name__ == "__main__":
    main()
