"""The command line: parse, call the API, print. No logic."""

from __future__ import annotations

import gc
import signal
import sys
from typing import NoReturn

import click

from onnxprune.cli import inspecting, retraining, streams, transforming
from onnxprune.errors import OnnxPruneError, one_line

_OBJECTS = 100_000  # between two searches for garbage: what imports make stays, and to look through it is all in vain


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="onnxprune")
def cli() -> None:
    """Make ONNX models smaller, in files that any ONNX Runtime loads.

    Exit codes: 0 done, 1 bad input or request, 2 usage, 3 a check or tolerance was missed, 130 interrupted.
    """


for _command in (
    transforming.compress, transforming.prune, transforming.strip, transforming.encode, transforming.decode,
    transforming.run, transforming.pack, transforming.unpack, inspecting.inspect, inspecting.compat, inspecting.verify,
    inspecting.html_report, inspecting.demo, inspecting.passes, inspecting.sensitivity, retraining.masks,
    retraining.update, retraining.iterate,
):  # fmt: skip
    cli.add_command(_command)


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command line; an expected error is one line and an exit code."""
    gc.set_threshold(_OBJECTS)
    signal.signal(signal.SIGTERM, _terminated)  # leave through the same clean-up as Ctrl-C
    streams.prepare()
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("Error: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OnnxPruneError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of the terminal or pipe: files are the API's, which names them
        click.echo(f"Error: {error.filename or 'cannot print'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:  # the one place: a user sees a line, never a traceback
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
    sys.exit(code or 0)
