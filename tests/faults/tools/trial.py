"""Bombs and loaders in a process of its own, under a limit of address space: ``python -m tools.trial GOOD LOADER…``.

Reads a line ``name<TAB>path`` a bomb from standard input; writes a line of JSON a loader and bomb.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT_AS = 2 << 30
_GIVE_UP = 5  # seconds

Bomb = tuple[str, Path]


def try_bombs(bombs: Sequence[Bomb], good: Path, loaders: Sequence[str]) -> list[dict[str, Any]]:
    """What each loader made of each bomb: ``error`` (its type, "" for none, "died"), ``typed`` (one of ours), ``text``,
    ``seconds``, ``bytes`` (resident memory, at its peak, above what stood before).

    Args:
        bombs: names and paths.
        good: a folder of good files, loaded before the limit is set, so that everything is imported.
        loaders: names in ``tools.loaders.LOADERS``.
    """
    # What allocators reserve in advance would use the address space up.
    env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tools.trial", str(good), *loaders],
        input="".join(f"{name}\t{path}\n" for name, path in bombs),
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _attempt(loader: Any, path: Path) -> dict[str, Any]:
    from tools.limits import PeakMemory
    from understudy.errors import UnderstudyError

    with PeakMemory() as memory:
        start = time.perf_counter()
        signal.alarm(_GIVE_UP)
        try:
            loader(path)
        except Exception as err:
            outcome = {"error": type(err).__name__, "typed": isinstance(err, UnderstudyError), "text": str(err)[:2000]}
        else:
            outcome = {"error": "", "typed": True, "text": ""}
        finally:
            signal.alarm(0)
        seconds = time.perf_counter() - start
    return {**outcome, "seconds": seconds, "bytes": memory.bytes}


def _try_all(loader: Any, bombs: Sequence[Bomb]) -> list[dict[str, Any]]:
    """One child a loader; after a bomb that ended it, another one for the rest."""
    from tools.child import fork, wait_for

    answers: list[dict[str, Any]] = []
    while len(answers) < len(bombs):
        reading, writing = os.pipe()
        start = len(answers)

        def work(start: int = start, writing: int = writing) -> None:
            with os.fdopen(writing, "w") as pipe:
                for _, path in bombs[start:]:
                    pipe.write(json.dumps(_attempt(loader, path)) + "\n")
                    pipe.flush()

        pid = fork(work)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answers += [json.loads(line) for line in pipe if line.endswith("\n")]
        code = wait_for(pid, 5.0)
        if len(answers) < len(bombs):
            died = {"error": "died", "typed": False, "text": f"exit code {code}", "seconds": 0.0, "bytes": 0}
            answers.append(died)
    return [{"bomb": name, **answer} for (name, _), answer in zip(bombs, answers, strict=True)]


def main(good: Path, names: Sequence[str]) -> None:
    """Load what is good once, then each bomb under the limit."""
    from tools.good import good_files
    from tools.limits import limit_as, mapped_bytes
    from tools.loaders import LOADERS

    logging.disable(logging.WARNING)
    for path in good_files(good):
        for name in names:
            _attempt(LOADERS[name], path)
    bombs = [(name, Path(path)) for name, _, path in (line.rstrip("\n").partition("\t") for line in sys.stdin)]
    print(f"{mapped_bytes() >> 20} MiB mapped before the limit", file=sys.stderr)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    with limit_as(LIMIT_AS):
        for name in names:
            for answer in _try_all(LOADERS[name], bombs):
                print(json.dumps({"loader": name, **answer}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
