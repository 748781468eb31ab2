"""BC with its default policy, [32, 32], batch 32, on 28,000 CartPole samples: 4 epochs, or 40 (``--case long``)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cloning import cartpole_returns, clone
from demonstrations import cartpole
from measuring import Arguments, Measurement, run

EPOCHS = {"short": 4, "long": 40}


def measure(arguments: Arguments) -> Measurement:
    """Clone the CartPole controller and let the clone balance."""
    trainer, measurement = clone(
        arguments.library, cartpole(), seed=arguments.seed, batch_size=32, n_epochs=EPOCHS[arguments.case]
    )
    return replace(
        measurement, result={**measurement.result, "return_mean": float(np.mean(cartpole_returns(trainer.policy)))}
    )


if __name__ == "__main__":
    run(measure, cases=tuple(EPOCHS))
