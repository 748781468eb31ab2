"""Public names and signatures, compared with ``docs/api.txt``.

A difference is either a mistake or a change to announce: run ``make api`` and put it into CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import understudy

API = Path(__file__).resolve().parent.parent / "docs" / "api.txt"


def public_modules() -> list[str]:
    """Every promised import path: no part of it begins with an underscore."""
    found = (m.name for m in pkgutil.walk_packages(understudy.__path__, "understudy."))
    return ["understudy", *sorted(n for n in found if not any(part.startswith("_") for part in n.split(".")))]


def public_names(module: ModuleType) -> list[str]:
    """``__all__`` where there is one; else the classes and functions that the module defines itself."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    )


def signature(value: object) -> str:
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe(value: object, name: str) -> Iterator[str]:
    """Lines for one public object; a class also lists its own public members."""
    if inspect.isroutine(value):
        yield f"  {name}{signature(value)}"
    elif not inspect.isclass(value):
        yield f"  {name}"
    else:
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"  class {name}({bases})"
        if issubclass(value, enum.Enum):
            yield from (f"    {member.name} = {member.value!r}" for member in value)
            return
        if dataclasses.is_dataclass(value):
            yield f"    fields: {', '.join(field.name for field in dataclasses.fields(value))}"
        for key, member in sorted(vars(value).items()):
            if isinstance(member, property):
                yield from () if key.startswith("_") else (f"    property {key}",)
            elif isinstance(member, classmethod | staticmethod):
                yield from () if key.startswith("_") else (f"    {key}{signature(member.__func__)}",)
            elif inspect.isfunction(member) and (not key.startswith("_") or key in {"__init__", "__call__"}):
                yield f"    {key}{signature(member)}"


def render() -> str:
    lines = ["# Public names and signatures. Written by `make api`, compared by tests/test_public_api.py."]
    for path in public_modules():
        module = import_module(path)
        lines += ["", path]
        for name in public_names(module):
            value = getattr(module, name)
            if path == "understudy":  # the door only points; the object is described where it lives
                lines.append(f"  {name} -> {understudy._DOOR[name]}" if name in understudy._DOOR else f"  {name}")
            else:
                lines += describe(value, name)
    return "\n".join(lines) + "\n"


def test_the_public_names_and_signatures_are_those_written_down() -> None:
    got, written = render().splitlines(), API.read_text().splitlines()
    lost = [line for line in written if line not in set(got)]
    new = [line for line in got if line not in set(written)]
    changes = [*(f"- {line}" for line in lost), *(f"+ {line}" for line in new)]
    assert changes == [], "run `make api` if this is wanted"
    assert got == written


if __name__ == "__main__":
    API.write_text(render())
    print(f"wrote {API}")
