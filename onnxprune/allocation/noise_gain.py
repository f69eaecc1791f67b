"""How much of the noise in each weight reaches the outputs: measured by adding some and running the model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, TensorProto, helper

from onnxprune.allocation.synthetic_runs import NUMBERS, Samples, both_kinds, repeats, shrink_images, small
from onnxprune.core.dtypes import QUANTISED, Array
from onnxprune.errors import RuntimeFailure
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.scopes import scopes_of
from onnxprune.model.weight import Weight
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.deviation import compare
from onnxprune.runtime.session import each_run, open_session
from onnxprune.runtime.synthetic_inputs import CannotSynthesise

if TYPE_CHECKING:
    import onnxruntime as ort

_TYPES = QUANTISED | {TensorProto.FLOAT}
NOISE = 0.003  # relative squared error: about that of five bits
_TOGETHER, _FEW = 4, 16  # weights that share a run, but not of so few
_MUCH = 2.0  # times the usual noise, from which on those that shared a run get one each
_SYNTHETIC = 1  # samples of a kind


def gains_on(model: Model, weights: Sequence[Weight], data: Path, samples: int, half: int | None) -> list[float | None]:
    """`_gains` on data.

    Args:
        model: the model.
        weights: of the model.
        data: inputs, see `samples.load`.
        samples: at most so many of them.
        half: 0 or 1 for these of a half only.

    Raises:
        DataError: the inputs do not fit the model.
        RuntimeFailure: the model does not run.
    """
    return _gains(
        model, weights, lambda session: [sample_files.load(data, session, samples, half)[0].feeds], shrunk=False
    )


def synthetic_gains(model: Model, weights: Sequence[Weight]) -> list[float | None]:
    """`_gains` on synthesised inputs of both kinds, see `both_kinds`; images are made small.

    None for all where no such inputs are found, or the model does not run on any so small, or is too large itself.
    """
    if not small(model):
        return [None] * len(weights)
    try:
        return _gains(model, weights, lambda session: both_kinds(model, session, _SYNTHETIC, NUMBERS), shrunk=True)
    except (CannotSynthesise, RuntimeFailure):
        return [None] * len(weights)


def _gains(
    model: Model, weights: Sequence[Weight], inputs: Callable[[ort.InferenceSession], list[Samples]], *, shrunk: bool
) -> list[float | None]:
    """For each weight the relative squared error of the outputs over its own, against the usual weight's.

    The mean over the outputs, the geometric mean over the lists of samples that `inputs` gives for a session. The
    weights become inputs with default values of one session, so that a trial costs a run and no load. Of many,
    `_TOGETHER` that follow each other share one, as their noise adds up; only where that is much, each is tried by
    itself. None for a weight that cannot become an input (in a function, of another type, bound twice), and for all
    where the model draws numbers, by which its outputs differ from run to run.
    """
    if not repeats(model):
        return [None] * len(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exposed = _write_exposed(model, {w.name for w in weights}, path, shrunk)
        trials = _Trials(model, open_session(path), inputs)
        numbers = [number for number, weight in enumerate(weights) if weight.name in exposed]
        together = _TOGETHER if len(numbers) >= _FEW else 1
        groups = [numbers[first : first + together] for first in range(0, len(numbers), together)]
        logs = np.full((len(trials.lists), len(weights)), np.nan)
        for group in groups:
            logs[:, group] = trials.noise({n: weights[n] for n in group})[:, np.newaxis]
        much = _against_usual(logs)
        for group in groups:
            if len(group) > 1 and much[group[0]] > _MUCH:
                logs[:, group] = np.stack([trials.noise({n: weights[n]}) for n in group], axis=1)
    return [None if np.isnan(gain) else float(gain) for gain in _against_usual(logs)]


def _against_usual(logs: Array) -> Array:
    """Gains from their logarithms by list and weight; NaN where one is not known."""
    known = ~np.isnan(logs).all(axis=1)
    if not known.any():
        return np.full(logs.shape[1], np.nan)
    found: Array = np.exp((logs[known] - np.nanmean(logs[known], axis=1, keepdims=True)).mean(axis=0))
    return found


class _Trials:
    """Runs of a session with noise in some of its weights.

    Args:
        model: whose weights they are.
        session: which takes them as inputs.
        inputs: gives lists of samples for it.
    """

    def __init__(
        self, model: Model, session: ort.InferenceSession, inputs: Callable[[ort.InferenceSession], list[Samples]]
    ) -> None:
        self.lists = inputs(session)
        self._model, self._session = model, session
        self._references = [list(each_run(session, feeds)) for feeds in self.lists]

    def noise(self, weights: dict[int, Weight]) -> Array:
        """The logarithm of the outputs' relative squared error for each list, over that of one weight.

        NaN where the model does not run, or outputs hardly depend on what goes in: that says nothing of a weight.

        Args:
            weights: those with noise, by the seed of it.
        """
        noisy = {weight.value: _noisy(weight, weight.array(self._model), seed) for seed, weight in weights.items()}
        self._model.payloads.forget_pages()
        found = np.full(len(self.lists), np.nan)
        for place, (feeds, reference) in enumerate(zip(self.lists, self._references, strict=True)):
            with contextlib.suppress(RuntimeFailure):
                outputs = compare(reference, each_run(self._session, [{**feed, **noisy} for feed in feeds]))
                noise = [min(1.0, o.relative_l2**2) for o in outputs if np.isfinite(o.relative_l2)]
                if any(noise):
                    found[place] = np.log(np.mean(noise) / (NOISE * len(weights)))
        return found


def _write_exposed(model: Model, names: set[str], path: Path, shrunk: bool) -> set[str]:
    """Write the model with weights as optional inputs of the main graph; returns which of them are.

    Args:
        model: the model.
        names: of the weights.
        path: the file.
        shrunk: whether images may be smaller than the model says.
    """
    exposed = set()
    with model.edited() as proto:
        graph = proto.graph
        proto.ir_version = max(proto.ir_version, 4)
        scopes = [inner for top in scopes_of(model.proto) for inner in top.inner()]
        if shrunk:
            shrink_images(proto)
        for weight in find(model):
            body, tensor = weight.scope.body, weight.tensor
            if weight.name not in names or weight.element not in _TYPES or not isinstance(body, GraphProto):
                continue
            if not isinstance(tensor, TensorProto) or sum(scope.defines(weight.value) for scope in scopes) > 1:
                continue
            if weight.store == "constant" or body is not graph:
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name = weight.value
                if weight.store == "constant":
                    body.node.remove(weight.scope.producers[weight.value])
                else:
                    body.initializer.remove(tensor)
            if all(i.name != weight.value for i in graph.input):
                graph.input.append(helper.make_tensor_value_info(weight.value, weight.element, weight.shape))
            exposed.add(weight.name)
        model.write(path)
    return exposed


def _noisy(weight: Weight, array: Array, seed: int) -> Array:
    """The weight with noise of its own energy per output channel, whose sum over the inputs is 0."""
    axes = tuple(weight.in_axes) or tuple(range(array.ndim))
    noise = np.random.default_rng(seed).standard_normal(array.shape, dtype=np.float32)
    noise -= noise.mean(axes, keepdims=True)
    if weight.element not in QUANTISED:
        return array + noise * np.sqrt(NOISE * np.square(array).mean(axes, keepdims=True))
    zero, room = weight.zero_value.astype(np.float32), np.iinfo(array.dtype)
    noise *= np.sqrt(NOISE * np.square(array - zero).mean(axes, keepdims=True))
    return np.clip(np.rint(array + noise), room.min, room.max).astype(array.dtype)
