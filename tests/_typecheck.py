"""The run-time type checker behind the shapes; conftest.py names it to jaxtyping."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is a float here, as it is for mypy.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
