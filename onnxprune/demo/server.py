"""Serve a page on this machine, with the headers that give it threads."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from onnxprune.core.override import override
from onnxprune.errors import OptionError


class _Isolated(SimpleHTTPRequestHandler):
    """Files of one folder; a page among them may share memory between its threads."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    @override
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each file."""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder for this machine alone; its `server_port` is the port.

    Args:
        folder: what it serves.
        port: 0 takes a free one.

    Raises:
        OptionError: the port cannot be had.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Isolated, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise OptionError(f"cannot serve on port {port}: {error}") from error
