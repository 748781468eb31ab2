"""Clone into the policy of a PPO learner, then let PPO go on from there.

Run: python examples/clone_then_learn.py
"""

from __future__ import annotations

import numpy as np
from stable_baselines3 import PPO

from understudy import BC, evaluate_returns, load_policy, make_sample_until, make_vec_env, rollout


def main() -> None:
    rng = np.random.default_rng(0)
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=8)
    demonstrations = rollout(load_policy("bundled", venv), venv, make_sample_until(min_episodes=16), rng=rng)

    learner = PPO("MlpPolicy", venv, n_steps=128, seed=0, device="cpu")
    print(f"untrained: {evaluate_returns(learner, venv, n_episodes=16).returns.mean():.0f}")

    bc = BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        policy=learner.policy,
        demonstrations=demonstrations,
        rng=rng,
    )
    bc.train(n_epochs=5)
    print(f"cloned: {evaluate_returns(learner, venv, n_episodes=16).returns.mean():.0f}")

    learner.learn(4_096)
    print(f"after some PPO: {evaluate_returns(learner, venv, n_episodes=16).returns.mean():.0f}")


if __name__ == "__main__":
    main()
