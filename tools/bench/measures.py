"""The commands that measure, one module each.

Such a module has a docstring that is its `--help`, whose first line `bench --help` lists, and three functions:
`add_options(parser)` adds its own options; `run(options, found, folder)` adds rows and bars to the `Results` and yields
whenever there is more to keep; `shown(rows)` is the rows as markdown.
"""

from __future__ import annotations

from types import ModuleType

from . import (
    analysis,
    crowd,
    defaults,
    forms,
    growth,
    kernels,
    latency,
    models,
    phases,
    scan,
    scores,
    session_options,
    strip,
)  # fmt: skip

TOOL = "tools/bench"
MEASURES: dict[str, ModuleType] = {
    "models": models,
    "growth": growth,
    "profile": phases,
    "default": defaults,
    "crowd": crowd,
    "forms": forms,
    "latency": latency,
    "session": session_options,
    "kernels": kernels,
    "strip": strip,
    "analysis": analysis,
    "scan": scan,
}
_OTHERS = {"tools/accuracy.py": scores}  # tools that write results of this form, and what shows them


def showing(command: str) -> ModuleType:
    """The module whose `shown` makes the tables of what a command measured; KeyError for one that is not known."""
    if command in _OTHERS:
        return _OTHERS[command]
    tool, _, name = command.partition(" ")
    if tool != TOOL:
        raise KeyError(command)
    return MEASURES[name]
