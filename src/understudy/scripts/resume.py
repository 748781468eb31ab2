"""``--resume DIR``: go on with a run that was stopped or killed."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from understudy.errors import ConfigError, CorruptFileError, MissingFileError
from understudy.scripts._callables import is_reference
from understudy.scripts._parts import say
from understudy.scripts._run_folder import CONFIG, RunFolder, read_json
from understudy.util.run_lock import RunLock

if TYPE_CHECKING:
    from rich.console import Console


_NEEDED: dict[str, type | tuple[type, ...]] = {
    "verb": str,
    "options": dict,
    "status": str,
    "command": str,
    "started": str,
    "wall_clock_seconds": (int, float),
}


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with a run as if it had never been stopped; all its options come from its folder."""

    resume: Path
    """The run's folder."""

    environment: str | None = None
    """Its environment once more; needed only for package:Name-v0, because importing a package runs its code."""

    expert: str | None = None
    """Its expert once more; needed only for module:name, because importing a module runs its code."""

    allow_other_threads: bool = False
    """Go on although the number of threads is another: the result may then differ in its last bits."""

    progress_bar: bool = True
    """Show progress with the time left."""

    def run(self, console: Console, verb: str, options: type[Any]) -> int:
        """Go on with it; returns the exit code.

        Args:
            console: where to talk.
            verb: what the run must be of.
            options: the verb's dataclass.

        Raises:
            MissingFileError: no run there.
            RunLockedError: it is still going on.
            ConfigError: it is of another verb, or needs ``environment`` or ``expert``.
            CorruptFileError: its ``config.json`` is not one.
        """
        path = self.resume
        if not (path / CONFIG).is_file():
            raise MissingFileError(f"a run in {path}", f"no {CONFIG} there", "give the folder that --out named")
        with RunLock(path):  # refused at once if the run is still going on
            config = self._config(verb)
        if config["status"] == "finished":
            say(console, "finished", f"nothing is left to do in [bold]{path}[/bold]")
            return 0
        asked = dataclasses.replace(_built(options, config["options"], path / CONFIG), progress_bar=self.progress_bar)
        self._check_environment(asked.environment.env_id)
        self._check_expert(asked.expert.expert)
        folder = RunFolder(path, verb=verb, options=asked, seed=asked.seed, resumed=config)
        with folder.lock:
            return int(asked.resume(folder, console, allow_other_threads=self.allow_other_threads))

    def _config(self, verb: str) -> dict[str, Any]:
        config = read_json(self.resume / CONFIG)
        if not isinstance(config, dict) or any(
            not isinstance(config.get(name), kind) for name, kind in _NEEDED.items()
        ):
            raise CorruptFileError(
                f"the {CONFIG} of a run", f"{self.resume / CONFIG}, which is something else", "start the run again"
            )
        if config["verb"] != verb:
            raise ConfigError(
                f"a run of `understudy {verb}` in {self.resume}",
                f"one of `understudy {config['verb']}`",
                f"understudy {config['verb']} --resume {self.resume}",
            )
        return config

    def _check_environment(self, env_id: str) -> None:
        if ":" in env_id and self.environment != env_id:
            raise ConfigError(
                f"--environment {env_id}, since going on imports that package, which runs its code",
                "nothing" if self.environment is None else self.environment,
                f"add --environment {env_id} if you trust this run folder",
            )

    def _check_expert(self, spec: str) -> None:
        if is_reference(spec) and self.expert != spec:
            raise ConfigError(
                f"--expert {spec}, since going on imports that module, which runs its code",
                "nothing" if self.expert is None else self.expert,
                f"add --expert {spec} if you trust this run folder",
            )


def resume(args: list[str], verb: str, module: str, options: str, console: Console) -> int:
    """Parse the arguments that stand with ``--resume`` and go on; help and usage errors exit as argparse's do."""
    import tyro

    asked = tyro.cli(Resume, prog=f"understudy {verb}", args=args, config=(tyro.conf.OmitArgPrefixes,))
    return asked.run(console, verb, getattr(import_module(module), options))


def _built(kind: type[Any], plain: Any, file: Path) -> Any:
    """A dataclass of options from what ``config.json`` says of it."""
    try:
        fields = dataclasses.fields(kind)
        names = {field.name for field in fields}
        needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
        if not isinstance(plain, dict) or not needed <= plain.keys() <= names:
            strange = names.symmetric_difference(plain) if isinstance(plain, dict) else plain
            raise ValueError(f"other options than {kind.__name__} has: {strange}")
        hints = get_type_hints(kind)
        return kind(**{name: _value(hints[name], value, file) for name, value in plain.items()})
    except (ValueError, TypeError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(
            f"the options of this version's runs in {file}", str(error)[:200], "start the run again in another folder"
        ) from error


def _value(hint: Any, plain: Any, file: Path) -> Any:
    if dataclasses.is_dataclass(hint):
        return _built(hint, plain, file)  # type: ignore[arg-type]
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if get_origin(kind) is Annotated:
            return _value(get_args(kind)[0], plain, file)
        if kind is NoneType and plain is None:
            return None
        if get_origin(kind) is Literal and plain in get_args(kind):
            return plain
        if get_origin(kind) is tuple and isinstance(plain, list):
            return tuple(_value(get_args(kind)[0], item, file) for item in plain)
        if kind is Path and isinstance(plain, str):
            return Path(plain)
        if kind is float and type(plain) in (int, float):
            return float(plain)
        if kind in (bool, int, str) and type(plain) is kind:
            return plain
    raise ValueError(f"{str(plain)[:40]!r} where {hint} belongs")
