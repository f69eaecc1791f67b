"""Standard streams that nobody reads: a command works on, says nothing and ends with the exit code of its work."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from onnxprune.core.override import override

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Output(io.FileIO):
    """A stream to a file or another program. After the first failure what is written goes nowhere.

    That the reader has ended is no failure of the command; any other is raised once, and not again at exit.
    """

    @override
    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise
            return memoryview(data).nbytes


def prepare() -> None:
    """Make standard output and error safe to print to, whoever started the process.

    A stream that was closed before the start (`>&-`) leads nowhere: the next file that is opened would get its
    descriptor, and what libraries print. A name that does not fit the terminal's encoding is escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(descriptor, True)
    sys.stdout = _prepared(sys.stdout, 1)
    sys.stderr = _prepared(sys.stderr, 2)


def _prepared(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return open(descriptor, "w", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO) or raw.isatty():
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw.fileno(), "w", closefd=False)), stream.encoding, stream.errors,
        line_buffering=stream.line_buffering, write_through=stream.write_through,
    )  # fmt: skip
