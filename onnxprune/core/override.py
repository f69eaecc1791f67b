"""`override` of PEP 698, which type checkers hold and Python 3.11 does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import override as override
else:
    Method = TypeVar("Method")

    def override(method: Method) -> Method:
        """Mark a method that implements or replaces one of a base class, which documents it."""
        return method
