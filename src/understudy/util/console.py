"""The text terminal."""

from __future__ import annotations

import os
import sys


def clear_screen() -> None:
    """Empty the terminal; does nothing where the output is not one."""
    if not sys.stdout.isatty():
        return
    if os.name == "nt":
        os.system("cls")
    else:
        sys.stdout.write("\033[2J\033[H")
        sys.stdout.flush()
