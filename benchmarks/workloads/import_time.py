"""Wall time of a fresh interpreter that imports the library: the package alone, or its behavioural cloning.

The bare interpreter's own start is part of the figure; it is measured too and stands in the result. One import comes
first, so that compiled files exist and the page cache is warm.
"""

from __future__ import annotations

import subprocess
import sys
import time

from measuring import Arguments, Measurement, run

STATEMENTS = {"package": "import {library}", "bc": "import {library}; from {library}.algorithms import bc"}


def _seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", statement], check=True, capture_output=True)
    return time.perf_counter() - start


def measure(arguments: Arguments) -> Measurement:
    """Time the second of two imports."""
    statement = STATEMENTS[arguments.case].format(library=arguments.library)
    _seconds(statement)
    seconds = _seconds(statement)
    # The work is the child's, so this process has no processor time worth reporting.
    return Measurement(seconds=seconds, cpu_seconds=seconds, result={"interpreter_seconds": _seconds("pass")})


if __name__ == "__main__":
    run(measure, cases=tuple(STATEMENTS))
