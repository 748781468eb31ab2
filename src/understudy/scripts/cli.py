"""The console command ``understudy``.

The verbs stand in one table; a verb's module is imported when it is called, so that help is quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any


@dataclasses.dataclass(frozen=True)
class Verb:
    """What stands after ``understudy``; ``options`` is the dataclass in ``module`` whose ``run`` does the work."""

    module: str
    options: str
    summary: str
    resumable: bool = False


VERBS = {
    "demo": Verb("understudy.scripts.demo", "Demo", "see an expert cloned, from demonstrations to report"),
    "train bc": Verb(
        "understudy.scripts.train_bc", "TrainBC", "clone an expert or a dataset (behavioural cloning)", resumable=True
    ),
    "train dagger": Verb(
        "understudy.scripts.train_dagger",
        "TrainDAgger",
        "let the clone act, and ask the expert where it gets to (DAgger)",
        resumable=True,
    ),
    "pretrain": Verb("understudy.scripts.pretrain", "Pretrain", "clone into a learner that then goes on with RL"),
    "train rl": Verb("understudy.scripts.train_rl", "TrainRL", "train an expert with reinforcement learning"),
    "rollout": Verb("understudy.scripts.rollout", "Rollout", "record a policy into a dataset"),
    "evaluate": Verb("understudy.scripts.evaluate", "Evaluate", "compare policies: returns with intervals"),
    "inspect": Verb("understudy.scripts.inspect", "Inspect", "look demonstrations over before training on them"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: without the program's name; None takes those of the process.

    Returns:
        0 for success, 1 if `inspect` found errors, 2 for a mistake in options or data (said in three parts, without a
        traceback), 130 after Ctrl-C, 143 after SIGTERM.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["--version"]:
        from understudy import __version__

        print(f"understudy {__version__}")
        return 0
    name = _verb_in(args)
    if name is None:
        return _overview(args)
    from rich.console import Console

    from understudy.errors import UnderstudyError

    rest = args[len(name.split()) :]
    verb = VERBS[name]
    try:
        with _terminated_as_interrupted():
            if verb.resumable and any(arg.partition("=")[0] == "--resume" for arg in rest):
                from understudy.scripts.resume import resume

                return resume(rest, name, verb.module, verb.options, Console())
            return int(parse(name, rest).run(Console()))
    except UnderstudyError as error:
        _explain(error)
        return 2
    except _Terminated:
        print("terminated", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt as stopped:
        print("interrupted", file=sys.stderr)
        return 128 + int(getattr(stopped, "signal", signal.SIGINT))
    except BrokenPipeError:  # `understudy … | head` closed the pipe: nobody reads on
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
        return 141


class _Terminated(KeyboardInterrupt):
    """SIGTERM, so that what is cleaned up after Ctrl-C is cleaned up after it too."""


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(name: str, args: Sequence[str]) -> Any:
    """The verb's options from the arguments after it; help and usage errors exit as argparse's do."""
    import tyro

    verb = VERBS[name]
    options = getattr(import_module(verb.module), verb.options)
    named = _environment_first(args, {field.name for field in dataclasses.fields(options)})
    return tyro.cli(options, prog=f"understudy {name}", args=named, config=(tyro.conf.OmitArgPrefixes,))


def _environment_first(args: Sequence[str], fields: set[str]) -> list[str]:
    """``--env ID``, which `inspect` has as an option, understood by the verbs whose environment stands first."""
    if "env" in fields or not fields & {"environment", "env_id"}:
        return list(args)
    rest, found = [], []
    given = iter(args)
    for arg in given:
        name, equals, value = arg.partition("=")
        if name != "--env":
            rest.append(arg)
            continue
        following = value if equals else next(given, None)
        if following is None:
            return list(args)  # told as what it is, an option without its value
        found.append(following)
    return [*found, *rest]


def _verb_in(args: Sequence[str]) -> str | None:
    for words in (2, 1):
        name = " ".join(args[:words])
        if name in VERBS and len(args) >= words:
            return name
    return None


def _overview(args: Sequence[str]) -> int:
    """Help on all verbs or on one family of them; 2 if that is not what was asked for."""
    family = args[0] if args and any(name.startswith(args[0] + " ") for name in VERBS) else ""
    rest = args[1:] if family else args
    if rest and rest[0] not in ("-h", "--help", "help"):
        from understudy.errors import ConfigError

        close = _meant(args)
        _explain(
            ConfigError(
                f"a verb: {', '.join(VERBS)}",
                repr(" ".join(args[: 2 if family else 1])),
                f"understudy {close}" if close else "understudy --help",
            )
        )
        return 2
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print("[bold]understudy[/bold] learns by watching: clone experts, record, inspect and evaluate.\n")
    table = Table.grid(padding=(0, 3))
    for name, verb in VERBS.items():
        if not family or name.startswith(family + " "):
            table.add_row(f"  understudy [bold]{name}[/bold]", verb.summary)
    console.print(table)
    console.print("\nStart with [bold]understudy demo[/bold]. Every verb explains its options: understudy VERB --help")
    return 0


def _meant(args: Sequence[str]) -> str | None:
    """The verb that was probably meant by the first words."""
    words = [word for word in args[:2] if not word.startswith("-")]
    families = {name.partition(" ")[0] for name in VERBS}
    for asked, choices in ((" ".join(words), VERBS), (args[0], [*VERBS, *families])):
        close = difflib.get_close_matches(asked, choices, n=1, cutoff=0.7)
        if close:
            return close[0]
    return None


def _explain(error: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    parts = Table.grid(padding=(0, 2))
    for label, text in (("expected", error.expected), ("got", error.got), ("do this", error.do)):
        parts.add_row(Text(label, style="dim"), Text(str(text)))
    console = Console(stderr=True)
    console.print("[bold red]error[/bold red]")
    console.print(parts)


if __name__ == "__main__":
    sys.exit(main())
