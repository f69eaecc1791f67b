"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onnxprune.core.files import is_url


def stack(*options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Several options as one decorator, in this order."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


class PathOrUrl(click.Path):
    """A path. A model stays text where a path would lose a slash of a URL, or make a folder of an empty name."""

    def __init__(self, *, url: bool = False) -> None:
        super().__init__(path_type=Path)
        self._url = url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value as the command takes it."""
        if self._url and (is_url(value) or not value):
            return value
        if is_url(value):
            self.fail(f"'{value}' is a URL, and this has to be a file here.", param, ctx)
        return super().convert(value, param, ctx)


FILE, PLACE = PathOrUrl(), PathOrUrl(url=True)
model = click.argument("model", type=PLACE)
local_model = click.argument("model", type=FILE)
out = click.option("-o", "--out", type=PLACE, required=True, help="The file to write.")
local_out = click.option("-o", "--out", type=FILE, required=True, help="The file to write.")
data = click.option(
    "--data", type=FILE, help="Samples: an .npz file or a folder; arrays named after the inputs, and perhaps targets."
)
samples = click.option(
    "--samples", type=int, metavar="N", help="Use the first N samples; without --data synthesise N.  [default: all; 8]"
)


def tolerance_option(missed: str) -> Callable[..., Any]:
    """The option of what may be lost, with what happens where more is."""
    said = f"{missed} when the metric is more than T worse (percentages: points; sqnr: below T dB)."
    return click.option("--tolerance", type=float, metavar="T", help=said)


tolerance = tolerance_option("Write nothing and exit 3")
metric = stack(
    click.option(
        "--metric",
        metavar="METRIC",
        help="top1, top5 or expected_top1 (with targets), agreement, expected_agreement, sqnr, cosine, mse, or "
        "MODULE:FUNCTION of (outputs, data) or (session, data).  [default: top1 or mse with targets, else agreement]",
    ),
    click.option(
        "--evaluate",
        metavar="COMMAND",
        help="A command that prints a number for {model} as its last line; no shell runs it.",
    ),
    click.option("--lower-is-better", is_flag=True, help="The function or command counts errors."),
)
json_report = click.option("--json", "json_file", type=FILE, help="Write every fact of the run to this file.")
html_report = click.option(
    "--report",
    "html_file",
    type=FILE,
    help="Write a report with pictures to this HTML file (extra: onnxprune[report]).",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
encoding = click.option(
    "--encoding", default="auto", show_default=True, help="auto, graph (all but coo), or the name of one encoding."
)


FORMS = (
    "exact, half, shared:BITS, int8, int8:BITS, int4, int2, int8-dynamic (with --data), or auto (within the loss); "
    "PATTERN=FORM for some weights. Repeatable."
)


def values(default: str, loss: str) -> Callable[..., Any]:
    """The options of value forms, with the defaults that the help names."""
    return stack(
        click.option(
            "--values", multiple=True, default=(default,), metavar="FORM", help=f"{FORMS}  [default: {default}]"
        ),
        click.option(
            "--loss",
            type=float,
            metavar="L",
            help="The budget of auto: squared error over energy (the sum of squares) of each weight, or with --data of "
            f"its layer's outputs, summed over the weights.  [default: {loss}]",
        ),
        click.option(
            "--prefer",
            default="speed",
            show_default=True,
            help="speed (encodings that load fast) or size (fewest bytes, plain and packed).",
        ),
        click.option(
            "--target",
            multiple=True,
            metavar="NAME",
            help="The runtime that the file is for, or NAME>=VERSION: onnxruntime (from 1.25 on), onnxruntime-web, "
            "ort-format, openvino, opencv, tract, mnn, ncnn, tvm, iree, iree-at-load, litert, or any (all but "
            "iree-at-load, ort-format and tvm). Repeatable: all of them read it.  [default: onnxruntime]",
        ),
    )


activations = click.option(
    "--activations",
    default="float",
    show_default=True,
    help="float, or with --data int8: convolutions compute with 8-bit activations and weights; refused where this "
    "processor gains nothing.",
)
checks = stack(
    data, samples, tolerance, metric,
    click.option("--no-verify", is_flag=True, help="Do not run original and result in ONNX Runtime."),
    click.option("--in-place", is_flag=True, help="Allow the output to be the input."),
    click.option(
        "--jobs", type=int, metavar="N",
        help="Threads; the output does not depend on them.  [default: one per core, up to 4]",
    ),
    json_report, html_report, quiet,
)  # fmt: skip
rules = stack(
    click.option("--sparsity", type=float, metavar="S", help="Prune exactly this share of each scope (0 <= S < 1)."),
    click.option(
        "--quality", type=float, metavar="Q", help="Prune |w| < Q x the layer's standard deviation (Han et al. 2015)."
    ),
    click.option("--threshold", type=float, metavar="T", help="Prune |w| < T."),
    click.option(
        "--scope",
        default="layer",
        show_default=True,
        help="Scope of the share: layer, channel, or global (with --data by what layers lose).",
    ),
    click.option(
        "--saliency",
        default="",
        metavar="SALIENCY",
        help="Which entries go: magnitude, or with --data activation or obs, which refit those that stay.  "
        "[default: obs with --data, else magnitude]",
    ),
    click.option("--pattern", default="", help="2:4 keeps 2 of every 4 inputs; 1x4 prunes blocks of 4 inputs."),
    click.option(
        "--set",
        "set_",
        multiple=True,
        metavar="PATTERN=S",
        help="Sparsity of the weights that match a glob; repeatable.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Also prune weights that are left alone by default, such as biases.",
    ),
    click.option(
        "--skip", multiple=True, metavar="PATTERN", help="Leave the weights alone that match a glob; repeatable."
    ),
)
channels = stack(
    click.option(
        "--channels",
        multiple=True,
        metavar="S",
        help="Remove this share of the channels: of least norm, or with --data those that are missed least, and "
        "refit what reads them; PATTERN=S for those that some weights make. Repeatable.",
    ),
    click.option(
        "--speed-up",
        type=float,
        metavar="X",
        help="Search for the shares of --channels that make a run X times as fast in onnxruntime, at the least loss on "
        "--data. It is measured, so that two runs may differ: the --channels that the result shows make the same file.",
    ),
    click.option(
        "--multiple",
        type=int,
        metavar="N",
        help="Round the number of channels that a layer keeps up to a multiple of N.  [default: 4 behind convolutions, "
        "which ONNX Runtime computes in blocks of channels; else 1]",
    ),
)


strip_metadata = click.option(
    "--strip-metadata", is_flag=True, help="Drop doc strings and metadata that no runtime reads, such as stack traces."
)
freeze = click.option(
    "--freeze",
    is_flag=True,
    help="Take weights out of the model's inputs, where older exporters list them: nobody can override them any more.",
)
names_from = click.option(
    "--names-from",
    type=FILE,
    help="The checkpoint that the model was exported from (.safetensors, .npz, .pt), matched by value.",
)
masks = stack(
    click.option("--masks", type=FILE, help="Write the masks of the pruned weights to this file."), names_from
)


scan = click.option(
    "--from", "scan", type=FILE, metavar="FILE",
    help="A sensitivity scan: it distributes --sparsity over the layers; without a rule it weighs their losses.",
)  # fmt: skip
