"""Load, run passes, verify against the original, write atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from onnxprune.api.in_memory import takes_arrays
from onnxprune.api.options.keywords import TransformKeywords, explicit
from onnxprune.api.options.objects import Checks, taken
from onnxprune.api.remote import local
from onnxprune.api.result import Result
from onnxprune.api.stages import Saving, check_places, finish, open_model, placed, running
from onnxprune.api.verify import Verification
from onnxprune.core import threads
from onnxprune.core.files import PathLike
from onnxprune.pipeline import registry
from onnxprune.pipeline.base import Pass, parse


@local(writes="out")
@takes_arrays
@explicit(Checks)
def transform(
    model: PathLike, out: PathLike, steps: Sequence[Pass | str], **checks: Unpack[TransformKeywords]
) -> Result:
    """Load, run the passes, verify against the original, write atomically.

    Args:
        model: an ONNX file.
        out: the file to write, or a folder for one of the source's name; external data goes beside it.
        steps: passes, or their specs.
        data: arrays named after the inputs, and perhaps `targets`: a dict, an .npz file or a folder; see
            `held_data.held`. None synthesises inputs.
        samples: how many samples at most (data), or how many (synthesised).
        tolerance: how much worse than the original's the metric may be, in points for percent; a miss writes nothing.
            Of sqnr it is the least that the result must have, in dB.
        metric: a name of `metrics.NAMES`, a function, or MODULE:FUNCTION; see `judge.Question`. Without one it is top1
            or mse against targets, else agreement.
        evaluate: a command that prints a number for `{model}`, in place of a metric.
        lower_is_better: the number of a function or a command is an error.
        verify: whether to run original and result in ONNX Runtime.
        in_place: allow `out` to be `model`.
        masks: a file for the masks of what the magnitude pass pruned, in the shapes of the source.
        names_from: the checkpoint that the model was exported from, whose names and orientation the masks get.
        jobs: threads that work on the weights; None is one per core, up to `core.threads.MAX_THREADS`. The result is
            the same.
        progress: called with (pass, bytes of weights done, bytes in all).
        checks: the keywords from `data` on.

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
        TypeError: there is no such keyword.
    """
    table = registry.table()
    chain = [parse(step, table) if isinstance(step, str) else step for step in steps]
    return transformed(model, out, chain, taken(Checks, checks))


def transformed(
    model: PathLike, out: PathLike, steps: Sequence[Pass], checks: Checks, saving: Saving | None = None
) -> Result:
    """`transform` with its options as an object.

    Args:
        model: the model.
        out: the file to write.
        steps: the passes, in order.
        checks: what `transform` takes as keywords.
        saving: when the model stays as it was; see `stages.finish`.

    Raises:
        OnnxPruneError: see `onnxprune.errors`.
    """
    source = Path(model)
    target = placed(source, out)
    check_places(checks, source, target)
    with threads.using(checks.jobs):
        opened = open_model(source, target, steps, checks)
        with running(opened, checks):
            opened.take(steps, checks.progress)
            return finish(opened, target, checks, Verification(source, checks), saving)
