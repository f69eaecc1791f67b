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


class File(click.Path):
    """A path. A model stays text where a path would lose a slash of a URL, or make a folder of an empty name."""

    def __init__(self, *, url: bool = False) -> None:
        super().__init__(path_type=Path)
        self._url = url

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the command gets."""
        if self._url and (is_url(value) or not value):
            return value
        if is_url(value):
            self.fail(f"'{value}' is a URL, and this has to be a file here.", param, ctx)
        return super().convert(value, param, ctx)


FILE, PLACE = File(), File(url=True)
model = click.argument("model", type=PLACE)
out = click.option("-o", "--out", type=PLACE, required=True, help="The file to write.")
data = click.option(
    "--data", type=FILE, help="Samples: .npz or folder, arrays named after the inputs, perhaps targets."
)
samples = click.option("--samples", type=int, help="At most so many samples of the data (synthesised: 8).")
tolerance = click.option(
    "--tolerance",
    type=float,
    help="Write nothing and exit 3 when the metric is worse by more (top1, top5, agreement in points; sqnr: at least).",
)
metric = stack(
    click.option(
        "--metric",
        metavar="METRIC",
        help="top1, top5 (these need targets), agreement, sqnr, cosine, mse, or MODULE:FUNCTION of (outputs, data) or "
        "(session, data).  [default: top1 or mse with targets, else agreement]",
    ),
    click.option("--evaluate", metavar="COMMAND", help="Prints a number for {model} as its last line; no shell."),
    click.option("--lower-is-better", is_flag=True, help="The number of the function or command is an error."),
)
json_report = click.option("--json", "json_file", type=FILE, help="Write all facts to this file.")
html_report = click.option(
    "--report",
    "html_file",
    type=FILE,
    help="Write a report with pictures to this HTML file (extra: onnxprune[report]).",
)
encoding = click.option(
    "--encoding", default="auto", show_default=True, help="auto, graph (self-decoding), coo, dense, or one form's name."
)


FORMS = "exact, half, shared:BITS, int8, int8:BITS, int4, or auto (within the loss); PATTERN=FORM for some; repeatable."


def values(default: str, loss: str) -> Callable[..., Any]:
    """How values are stored, and how much they may lose; `loss` says what without the option."""
    return stack(
        click.option(
            "--values", multiple=True, default=(default,), metavar="FORM", help=f"{FORMS}  [default: {default}]"
        ),
        click.option(
            "--loss",
            type=float,
            help=f"Squared error over energy, summed over the weights.  [default: {loss}]",
        ),
        click.option(
            "--prefer",
            default="speed",
            show_default=True,
            help="speed (forms that load fast) or size (plain and packed).",
        ),
    )


checks = stack(
    data, samples, tolerance, metric,
    click.option("--no-verify", is_flag=True, help="Do not run original and result in ONNX Runtime."),
    click.option("--in-place", is_flag=True, help="Allow the output to be the input."),
    click.option(
        "--jobs", type=int, metavar="N",
        help="Threads that work on the weights; the same bytes come out.  [default: one per core, up to 4]",
    ),
    json_report, html_report,
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)  # fmt: skip
rules = stack(
    click.option("--sparsity", type=float, help="Share of each scope to prune, exactly (0 <= S < 1)."),
    click.option("--quality", type=float, help="Prune |w| < Q x the layer's standard deviation (Han et al. 2015)."),
    click.option("--threshold", type=float, help="Prune |w| < T."),
    click.option("--scope", default="layer", show_default=True, help="What the share is of: layer, global, channel."),
    click.option("--pattern", default="", help="2:4 keeps 2 of every 4 inputs; 1x4 prunes blocks of 4 inputs."),
    click.option("--set", "set_", multiple=True, metavar="PATTERN=S", help="Sparsity for weights by glob; repeatable."),
    click.option("--include", multiple=True, metavar="PATTERN", help="Prune also what is left alone, such as biases."),
    click.option("--skip", multiple=True, metavar="PATTERN", help="Leave weights alone, by glob; repeatable."),
)
channels = stack(
    click.option("--channels", type=float, metavar="S", help="Remove this share of whole channels, the least first."),
    click.option(
        "--multiple", type=int, default=1, show_default=True, help="Round kept channels up to this, dead ones too."
    ),
)


names_from = click.option(
    "--names-from", type=FILE, help="The checkpoint of the model: .safetensors, .npz or .pt, matched by value."
)
masks = stack(click.option("--masks", type=FILE, help="Write masks of what the rule prunes here."), names_from)


scan = click.option(
    "--from", "scan", type=FILE, metavar="FILE",
    help="A sensitivity scan: it shares the sparsity of the whole out; in compress without a rule it weighs the loss.",
)  # fmt: skip
