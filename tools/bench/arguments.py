"""Options that several commands have, and the part of a command line that decides what is measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where the results and what is measured lie."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--folder", type=Path, help="where models and outputs lie meanwhile")


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Where the other tools lie."""
    parser.add_argument("--peers-python", nargs="+", default=[sys.executable], metavar="PATH",
                        help="interpreters that have onnxsim and NNCodec")  # fmt: skip


def add_environments(parser: argparse.ArgumentParser) -> None:
    """Where the environments of runtimes lie, of those that need some."""
    parser.add_argument("--environments", type=Path, metavar="DIR", help="their folder; what is missing is made")


def add_arm64(parser: argparse.ArgumentParser) -> None:
    """Where an arm64 system lies, for processors that are emulated."""
    parser.add_argument("--arm64", type=Path, metavar="ROOT", help="an arm64 system, for --emulated ARM processors")


def add_runs(parser: argparse.ArgumentParser, what: str = "runs of each tool, in turn") -> None:
    """How often everything is measured."""
    parser.add_argument("--runs", type=positive, default=3, metavar="N", help=f"{what} (default 3)")


def add_models(parser: argparse.ArgumentParser, instead: str) -> None:
    """Which models are measured."""
    parser.add_argument("--model", nargs="+", type=Path, metavar="FILE", help=f"instead of {instead}")


def without_places(arguments: Sequence[str]) -> list[str]:
    """The arguments less those that only say where files and interpreters are: they change no number."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_places(parser)
    add_peers(parser)
    add_environments(parser)
    add_arm64(parser)
    return parser.parse_known_args(arguments)[1]


def positive(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
