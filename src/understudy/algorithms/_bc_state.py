"""What behavioural cloning was made with, kept between processes."""

from __future__ import annotations

import dataclasses
from typing import Any

from understudy.errors import CorruptFileError


@dataclasses.dataclass(frozen=True)
class BCOptions:
    """What BC was made with, as plain values; each must be given again, or comes from here."""

    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    batch_size: int
    minibatch_size: int | None
    ent_weight: float
    l2_weight: float
    max_grad_norm: float | None
    compile: bool | str
    optimizer: str
    lr_schedule: bool
    sequence_length: int | None = None
    burn_in: int = 0

    @classmethod
    def of(cls, saved: Any) -> BCOptions:
        """Read back what ``dataclasses.asdict`` made.

        Raises:
            CorruptFileError: it is something else.
        """
        try:
            return cls(**saved)
        except TypeError as err:
            raise CorruptFileError(
                expected="the options of behavioural cloning", got=str(err), do="load it with the class that saved it"
            ) from err
