"""Make inputs for a model from what its graph says about them: kinds, sizes, index ranges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.runtime.deviation import compare
from onnxprune.runtime.input_kinds import Kind, Numbers, Shape
from onnxprune.runtime.input_recognition import recognise, told_sizes, unrecognised
from onnxprune.runtime.session import Feeds, Input, inputs_of, nbytes, run

if TYPE_CHECKING:
    import onnxruntime as ort

# Tried in this order for dimensions that are free: multiples of 32 suit most networks, and 512 and
# 576 the windows of audio models.
_SIZES = (64, 224, 16, 512, 128, 32, 320, 576, 8, 256, 3, 2, 1)
SAMPLES = 8  # unless more or fewer are asked for


class CannotSynthesise(Exception):
    """No inputs were found on which the model runs; the message says what was in the way, `advice` what to do."""

    def __init__(self, problem: str, advice: str = "give --data") -> None:
        super().__init__(problem)
        self.advice = advice


@dataclass(frozen=True)
class SyntheticInputs:
    """Inputs on which a model runs, what they are, in words by the input's name, and what it gives for each.

    The outputs are None where they are not held.
    """

    feeds: list[Feeds]
    kinds: dict[str, str]
    outputs: list[dict[str, Any]] | None


@dataclass(frozen=True)
class _Guess:
    """Kinds by input, sizes of axes as `told_sizes` has them, and the symbols of dimensions that count samples."""

    kinds: Mapping[str, Kind]
    told: Mapping[str, Mapping[int, int]]
    batches: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Sizes:
    """How the free dimensions of a try are chosen.

    Attributes:
        size: of those that nothing is known of.
        last_only: whether those before the last axis are 1.
        preferred: whether those have it of which something is merely likely.
        long: whether the first axis is no axis of samples, which is 1.
    """

    size: int
    last_only: bool = False
    preferred: bool = False
    long: bool = False


def synthesise(
    model: Model, session: ort.InferenceSession, samples: int, *, realistic: bool = True, numbers: int | None = None,
    held: int | None = None,
) -> SyntheticInputs:  # fmt: skip
    """Up to `samples` sets of inputs on which the session runs, the same ones each time.

    No more than hold so many `numbers`: an image does, a few indices do not.

    What the inputs are is recognised. Where the model does not run on such inputs, or no output on them tells one
    result from another, they are random numbers instead, within the bounds that the operators ask for. Unless they
    shall be `realistic`, such numbers come first: they reach more of what operators do, negative numbers for one.

    Outputs are those that the model has: the session may have many more, which record what happens inside. Where
    there are more bytes of them than may be `held`, none are: an image's may be many times larger than it.

    Raises:
        CannotSynthesise: no combination of kinds, sizes and ranges that was tried runs.
    """
    inputs, names = inputs_of(session), [output.name for output in model.proto.graph.output]
    for item in inputs:
        if item.dtype is None:
            problem = f"input '{item.name}' is {item.type}"
            if item.type == "tensor(string)":
                raise CannotSynthesise(problem)
            raise CannotSynthesise(problem, "which --data cannot hold either: run both models on your own inputs")
    problem, mute = "", None
    for guess in _guesses(model, inputs, realistic):
        try:
            shapes, outputs = _sized(session, inputs, names, guess)
        except RuntimeFailure as error:
            problem = str(error)
            continue
        found = shapes, guess.kinds, outputs
        if not all(output.says_nothing for output in compare([outputs], [outputs])):
            break
        mute = mute or found
    else:
        if mute is None:
            raise CannotSynthesise(problem)
        found = mute
    feeds, given = _made(session, inputs, names, samples, numbers, *found, held=held)
    return SyntheticInputs(feeds, {name: kind.phrase for name, kind in found[1].items()}, given)


def _made(
    session: ort.InferenceSession, inputs: list[Input], names: list[str], samples: int, numbers: int | None,
    shapes: dict[str, Shape], kinds: Mapping[str, Kind], outputs: dict[str, Any], *, held: int | None,
) -> tuple[list[Feeds], list[dict[str, Any]] | None]:  # fmt: skip
    """As many sets of inputs as were asked for, less those that the model does not take: numbers may not fit others.

    `outputs` are those of the first, which it takes.
    """
    feeds, given = [_feeds(inputs, shapes, kinds, 0)], [outputs]
    size = sum(array.size for array in feeds[0].values())
    most = samples if numbers is None else min(samples, -(-numbers // max(size, 1)))
    kept = held is None or most * nbytes(outputs) <= held
    for seed in range(1, most):
        feed = _feeds(inputs, shapes, kinds, seed)
        with contextlib.suppress(RuntimeFailure):
            found = run(session, feed, names)
            feeds.append(feed)
            given += [found] if kept else []
    return feeds, given if kept else None


def _guesses(model: Model, inputs: list[Input], realistic: bool) -> Iterator[_Guess]:
    """What is recognised; bounds from operators alone; no bounds of integers; at the end what is not `realistic`."""
    symbols = {size for i in inputs for size in i.shape[:1] if isinstance(size, str) and size and len(i.shape) > 1}
    others = {size for i in inputs for size in i.shape[1:]}
    told = told_sizes(model, inputs)
    recognised = _Guess(recognise(model, inputs), told, frozenset(symbols - others))
    if realistic:
        yield recognised
    bounded = unrecognised(model, inputs)
    yield _Guess(bounded, told)
    ranged = {i.name for i in inputs if np.issubdtype(i.dtype, np.integer) and bounded[i.name].varies}
    if ranged:
        yield _Guess({name: Numbers() if name in ranged else kind for name, kind in bounded.items()}, told)
    if not realistic:
        yield recognised


def _sized(
    session: ort.InferenceSession, inputs: list[Input], names: list[str], guess: _Guess
) -> tuple[dict[str, Shape], dict[str, Any]]:
    """The first sizes of free dimensions on which the session runs, and its outputs of these names.

    Raises:
        RuntimeFailure: it runs on none.
    """
    free = any(not isinstance(size, int) for item in inputs for size in item.shape)
    ways = product((False, True), (True, False), (False, True), _SIZES)
    tried = [_Sizes(size, last, preferred, long) for long, preferred, last, size in ways] if free else [_Sizes(1)]
    known, problem = set(), RuntimeFailure("no sizes were tried")
    for sizes in tried:
        shapes = {item.name: _shape(item, guess, sizes) for item in inputs}
        if tuple(shapes.values()) in known:
            continue
        known.add(tuple(shapes.values()))
        try:
            return shapes, run(session, _feeds(inputs, shapes, guess.kinds, 0), names)
        except RuntimeFailure as error:
            problem = error
    raise problem


def _shape(item: Input, guess: _Guess, sizes: _Sizes) -> Shape:
    """A free first dimension, or one that counts samples, is 1; other free ones (or only the last) are `sizes.size`.

    What the kind knows goes before; what it merely prefers, and what the weights tell, only where asked.
    """
    kind, last = guess.kinds[item.name], len(item.shape) - 1

    def dimension(axis: int, given: int | str | None) -> int:
        if isinstance(given, int):
            return given
        known = kind.size(axis)
        if known is None and sizes.preferred:
            known = kind.preferred(axis) or guess.told[item.name].get(axis)
        if known is not None:
            return known
        batch = "batch" in str(given).lower() or str(given) == "N" or given in guess.batches
        batch = batch or (axis == 0 and last > 0 and (last > 2 or not sizes.long))  # no series has four axes
        return 1 if batch or (sizes.last_only and axis < last) else sizes.size

    return tuple(dimension(axis, given) for axis, given in enumerate(item.shape))


def _feeds(inputs: list[Input], shapes: dict[str, Shape], kinds: Mapping[str, Kind], seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    return {i.name: kinds[i.name].within(shapes).values(rng, shapes[i.name], i.dtype) for i in inputs}
