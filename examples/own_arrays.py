"""From plain arrays to a policy, without an environment and without a reward.

The "recording" here is a thermostat that somebody turned by hand. Run: python examples/own_arrays.py
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from understudy import BC


def recording(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twenty days of 144 readings: (inside, outside) in degrees Celsius, and the heating's position in [0, 1]."""
    outside = rng.uniform(-10, 15, size=(20, 1)) + 4 * np.sin(np.linspace(0, 2 * np.pi, 144))
    inside = 20 + rng.normal(0, 1, size=outside.shape)
    heating = np.clip((21 - inside) * 0.2 + (20 - outside) * 0.02, 0, 1)
    obs = np.stack([inside, outside], axis=-1).reshape(-1, 2).astype(np.float32)
    acts = heating.reshape(-1, 1).astype(np.float32)
    return obs, acts, np.arange(1, 21) * 144


def main() -> None:
    rng = np.random.default_rng(0)
    obs, acts, episode_ends = recording(rng)
    bc = BC(
        observation_space=gym.spaces.Box(-40, 60, (2,)),
        action_space=gym.spaces.Box(0, 1, (1,)),
        demonstrations={"obs": obs, "acts": acts, "episode_ends": episode_ends},
        rng=rng,
    )
    bc.train(n_epochs=40, validation_fraction=0.2, patience=5)
    predicted, _ = bc.policy.predict(obs, deterministic=True)
    print(f"mean error of the heating's position: {np.abs(predicted - acts).mean():.3f}")
    bc.save_policy("thermostat.safetensors")


if __name__ == "__main__":
    main()
