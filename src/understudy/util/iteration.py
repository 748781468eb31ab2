"""Walking over iterables without losing an element or running dry."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

from understudy.errors import DataError, EmptyDataError

T = TypeVar("T")


def get_first_iter_element(iterable: Iterable[T]) -> tuple[T, Iterable[T]]:
    """The first element, and an iterable over all of them, the first included.

    Raises:
        EmptyDataError: there is no first element.
    """
    iterator = iter(iterable)
    try:
        first = next(iterator)
    except StopIteration:
        raise EmptyDataError("an iterable with at least one element", "an empty one", "check what fills it") from None
    if iterator is iterable:  # it can be walked once only, and one element is gone already
        return first, itertools.chain([first], iterator)
    return first, iterable


def endless_iter(iterable: Iterable[T]) -> Iterator[T]:
    """Walk over the iterable again and again.

    Raises:
        EmptyDataError: it has no element.
        DataError: it is an iterator, which can be walked only once.
    """
    if iter(iterable) is iterable:
        raise DataError("an iterable that can be walked again", "an iterator", "pass a list or another collection")
    _, iterable = get_first_iter_element(iterable)
    return itertools.chain.from_iterable(itertools.repeat(iterable))
