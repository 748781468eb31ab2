"""A clock that neither other processes nor the measuring of coverage hold up."""

from __future__ import annotations

import sys
import time

_TRACING_COSTS = 5


def cpu_seconds() -> float:
    """Processor time of this process; a fifth of it while every line is traced."""
    return time.process_time() / (_TRACING_COSTS if sys.gettrace() is not None else 1)
