"""Sphinx: Markdown pages, a reference written from the docstrings, every warning an error."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import understudy

project = "understudy"
copyright = "2026, the understudy maintainers"
release = version = understudy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "deflist"]
exclude_patterns = ["_build"]
default_role = "code"

html_theme = "furo"
html_title = f"understudy {release}"
html_copy_source = False

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Types of other packages have no page here, nor have type variables; nothing is looked up on the network.
nitpick_ignore_regex = [(r"py:.*", r"(?!understudy\.).*"), (r"py:(class|obj|data)", r".*")]


def write_reference(folder: Path) -> None:
    """One page for each package, one section for each public module; written anew at each build."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    pages: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(understudy.__path__, "understudy."):
        parts = module.name.split(".")
        if not any(part.startswith("_") for part in parts):
            pages.setdefault(parts[1], []).append(module.name)
    for page, modules in sorted(pages.items()):
        text = [f"# understudy.{page}", ""]
        for name in modules:
            heading = [] if name == f"understudy.{page}" else [f"## {name}", ""]
            text += [*heading, "```{eval-rst}", f".. automodule:: {name}", "```", ""]
        (folder / f"{page}.md").write_text("\n".join(text))
    toctree = ["```{toctree}", ":maxdepth: 1", "", *sorted(pages), "```", ""]
    intro = ["# Reference", "", "Written from the docstrings. `understudy.BC` and other short names point here.", ""]
    (folder / "index.md").write_text("\n".join([*intro, *toctree]))


write_reference(Path(__file__).parent / "api")


def escape_star_axes(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Shapes such as (batch, *obs) are prose in docstrings; reStructuredText would read emphasis into them."""
    lines[:] = [re.sub(r"(?<=[ (])\*(?=[a-z])(?![^(]*\*[ ,.;])", r"\\*", line) for line in lines]


def keep_colons(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a field's first colon for its type; an empty type in front prevents that."""
    if what in {"attribute", "data"} and lines and ":" in lines[0]:
        lines[0] = f": {lines[0]}"


def inline_math(self: Any, node: Any) -> None:
    """Equations as MathML, which browsers draw themselves: no script, no network."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_math(self: Any, node: Any) -> None:
    """As ``inline_math``, on a line of its own."""
    style = "overflow-x: auto; overflow-y: hidden; padding: 0.6em 0"
    self.body.append(f"<div style='{style}'>{convert(node.astext(), display='block')}</div>")
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-process-docstring", escape_star_axes, priority=600)
