"""Clone a bundled expert and say how sure we are of the result.

Run: python examples/clone_expert.py
"""

from __future__ import annotations

import numpy as np

from understudy import BC, evaluate_returns, load_policy, make_sample_until, make_vec_env, rollout
from understudy.evaluation.statistics import iqm, stratified_bootstrap

ENV = "CartPole-v1"


def main() -> None:
    rng = np.random.default_rng(0)
    venv = make_vec_env(ENV, rng=rng, n_envs=8)
    expert = load_policy("bundled", venv)
    demonstrations = rollout(expert, venv, make_sample_until(min_episodes=16), rng=rng)

    bc = BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        demonstrations=demonstrations,
        rng=rng,
    )
    bc.train(n_epochs=5)

    for name, policy in {"random": None, "expert": expert, "clone": bc.policy}.items():
        returns = evaluate_returns(policy, ENV, n_episodes=32).returns
        interval = stratified_bootstrap(returns, iqm, rng=rng)
        print(f"{name:>7}: {interval.point:6.1f}  [{interval.low:.1f}, {interval.high:.1f}]")


if __name__ == "__main__":
    main()
