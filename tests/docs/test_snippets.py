"""Every ```python block in README.md and docs/ runs, page by page, in one namespace and an empty folder.

A ```console block runs too where its line begins with ``$ understudy``. Anything that is not meant to run is written as
```text. The network is off, as in all tests.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy.scripts import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    language: str
    code: str
    line: int


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text()
    return [Snippet(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in FENCE.finditer(text)]


def run_python(page: Path, snippet: Snippet, namespace: dict[str, object]) -> None:
    # Blank lines in front make a traceback name the page's own line.
    code = "\n" * (snippet.line - 1) + snippet.code
    exec(compile(code, str(page), "exec"), namespace)


def run_console(page: Path, snippet: Snippet) -> None:
    for number, line in enumerate(snippet.code.splitlines(), start=snippet.line):
        if line.startswith("$ understudy "):
            assert cli.main(shlex.split(line)[2:]) == 0, f"{page.name}:{number}: {line}"


def pages_with_code() -> list[Path]:
    return [page for page in PAGES if snippets(page)]


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_runs(page: Path, in_tmp: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__page__"}
    for snippet in snippets(page):
        if snippet.language == "python":
            run_python(page, snippet, namespace)
        else:
            run_console(page, snippet)


def test_the_runner_finds_code_and_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nraise ValueError(x)\n```\n\n```text\nnot run\n```\n")
    (only,) = snippets(page)
    assert (only.language, only.line) == ("python", 4)
    with pytest.raises(ValueError, match="1") as caught:
        run_python(page, only, {})
    assert caught.traceback[-1].lineno + 1 == 5
