"""For comparison: cloning written straight on Stable-Baselines3 (``evaluate_actions``, Adam, no logging).

Same network, batch, data and number of updates as ``bc_small``.
"""

from __future__ import annotations

import numpy as np
import torch
from cloning import cartpole_returns, mean_neglogp
from demonstrations import cartpole
from measuring import Arguments, Measurement, Stopwatch, run
from stable_baselines3.common.policies import ActorCriticPolicy

N_EPOCHS, BATCH_SIZE, ENT_WEIGHT = 4, 32, 1e-3


def measure(arguments: Arguments) -> Measurement:
    """The plain loop over shuffled indices."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    data = cartpole()
    policy = ActorCriticPolicy(data.observation_space, data.action_space, lambda _: 1e-3, net_arch=[32, 32])
    optimizer = torch.optim.Adam(policy.parameters())
    obs, acts = torch.as_tensor(data.obs), torch.as_tensor(data.acts)
    n_batches = len(obs) // BATCH_SIZE

    def update(batch: torch.Tensor) -> None:
        _, log_prob, entropy = policy.evaluate_actions(obs[batch], acts[batch])
        assert entropy is not None
        loss = -log_prob.mean() - ENT_WEIGHT * entropy.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()

    with (watch := Stopwatch()):
        for _ in range(N_EPOCHS):
            order = torch.as_tensor(rng.permutation(len(obs)))
            for i in range(n_batches):
                update(order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE])
    return Measurement(
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        result={
            "milliseconds_per_batch": 1e3 * watch.seconds / (N_EPOCHS * n_batches),
            "optimiser_steps": N_EPOCHS * n_batches,
            "neglogp": mean_neglogp(policy, data),
            "return_mean": float(np.mean(cartpole_returns(policy))),
            "demonstrations_sha256": data.sha256(),
        },
    )


if __name__ == "__main__":
    run(measure)
