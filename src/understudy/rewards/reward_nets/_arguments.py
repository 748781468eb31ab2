"""Networks that know what they were built with, so that a file can say it."""

from __future__ import annotations

from typing import Any


class KnowsItsArguments:
    """Keeps the constructor's arguments, of subclasses too, without their doing anything for it."""

    _built_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        # Before `nn.Module.__init__`, whose `__setattr__` is not ready yet.
        object.__setattr__(made, "_built_with", (args, kwargs))
        return made

    def constructor_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments that build an equal network with fresh weights.

        By default those it was built with. Override it where they no longer tell what the network is.
        """
        return self._built_with
