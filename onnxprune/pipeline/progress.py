"""Progress: what long work tells whoever watches, in bytes of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # (pass, bytes of weights done, bytes in all)
Item = TypeVar("Item")


def silent(name: str, done: int, total: int) -> None:
    """Progress for nobody."""


def tracked(
    progress: Progress, name: str, items: Sequence[Item], nbytes: Callable[[Item], int]
) -> Iterator[tuple[int, Item]]:
    """The items with their numbers; progress hears of the bytes of each when the next one is asked for.

    Args:
        progress: called with (pass, bytes of weights done, bytes in all).
        name: of the pass.
        items: what is worked on, in order.
        nbytes: item -> its bytes.
    """
    sizes = [nbytes(item) for item in items]
    done, total = 0, sum(sizes)
    for number, item in enumerate(items):
        progress(name, done, total)
        yield number, item
        done += sizes[number]
    progress(name, done, total)
