"""Write the HTML report of a model, or of what became of one."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.allocation import curves as curve_files
from onnxprune.api.remote import unpacked
from onnxprune.api.result import Deviation, Result
from onnxprune.core.files import PathLike, staged, write
from onnxprune.errors import OptionError
from onnxprune.layer_costs.costs import Costs
from onnxprune.runtime.held_data import Data

if TYPE_CHECKING:
    from onnxprune.report.html.contents import Columns


def check_extra() -> None:
    """See that what the report needs is installed.

    Raises:
        OptionError: it is not.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError(f"the HTML report needs {error.name}: pip install 'onnxprune[report]'") from error


def write_report(
    model: PathLike | Result,
    out: PathLike,
    original: PathLike | None = None,
    *,
    data: Data | None = None,
    samples: int | None = None,
    sensitivity: PathLike | None = None,
    weights: Sequence[str] = (),
    cost: bool = False,
    command: str = "",
) -> None:
    """Write an HTML report, atomically; the same input gives the same bytes, measured times apart.

    Args:
        model: a model, packed or not, or the result of `transform` and its kin, whose files must still be there.
        out: the HTML file.
        original: what the model was made of: the report compares the two.
        data: samples to compare outputs and count activations on, as for `transform`; None synthesises inputs.
        samples: how many samples at most (data), or how many (synthesised).
        sensitivity: the file of a sensitivity scan of the original or of the model.
        weights: globs of the weights whose values are drawn; without any the largest of linear layers.
        cost: whether to run the model and put into the table what each layer costs (see `onnxprune.costs`): the
            milliseconds differ from run to run.
        command: what made the model or the report, to be shown.

    Raises:
        OptionError: jinja2 or matplotlib are missing, or data is given where nothing runs.
        CurvesError: the scan cannot be read or is of another model.
        WeightError: no weight matches a glob.
        OnnxPruneError: a model cannot be read or run.
    """
    check_extra()
    from onnxprune.api.inspect import costs
    from onnxprune.api.verify import verify
    from onnxprune.report.html import contents, page

    target, result = Path(out), None
    if isinstance(model, Result):
        result, deviation, path = model, model.deviation, Path(model.output.path)
        original = None if Path(result.input.path).resolve() == path.resolve() else result.input.path
    else:
        deviation, path = Deviation("none"), Path(model)
    if (data, samples) != (None, None) and not cost and (result is not None or original is None):
        raise OptionError("data and samples compare a model with its original, or cost: give both models, or cost")
    curves = None if sensitivity is None else curve_files.read(Path(sensitivity))
    if result is None and original is not None:
        deviation = verify(original, path, data=data, samples=samples)
    columns = _columns(costs(path, data=data, samples=samples)) if cost else {}
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(unpacked(path)))
        source = None if original is None else Path(stack.enter_context(unpacked(original)))
        found = contents.gather(place, source, result, deviation, curves, weights, columns, target.parent)
    found = contents.named(found, path, original)
    text = page.render(found, command)
    with staged(target) as place:
        write(place, [text.encode(errors="backslashreplace")])


def _columns(costs: Costs) -> Columns:
    """What stands beside the first weight of each layer; of layers that share a weight the sum, and the last share."""
    columns: dict[str, dict[str, float]] = defaultdict(dict)
    for layer in costs.layers:
        if not layer.weights:
            continue
        cells = columns[layer.weights[0]]
        for title, number in (("MFLOP", layer.flops and layer.flops / 1e6), ("ms", layer.latency_ms)):
            if number is not None:
                cells[title] = cells.get(title, 0) + number
        for title, share in (("act %", layer.act_share), ("FLOP %", layer.flop_share)):
            if share is not None:
                cells[title] = 100 * share
    return columns
