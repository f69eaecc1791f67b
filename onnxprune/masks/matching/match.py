"""Which parameter of a framework each ONNX weight is, by content: exporters rename, transpose, merge and fold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.core.dtypes import FLOATS, Array
from onnxprune.masks.checkpoints import is_real
from onnxprune.masks.matching import merged_tensors
from onnxprune.masks.matching.axis_order import constant, fitting, largest
from onnxprune.masks.matching.folded_batchnorm import FoldedBatchNorms
from onnxprune.masks.matching.link import Link, Parameter, Shape
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.weight import Kind, Reason, Weight


@dataclass(frozen=True)
class Matches:
    """What was found.

    Attributes:
        parameters: name in the checkpoint -> its shape, its other names, and where it lies in the model.
        unmatched: ONNX weight -> why no parameter was taken for it.
    """

    parameters: dict[str, Parameter]
    unmatched: dict[str, Reason]


def match(model: Model, checkpoint: Mapping[str, Array]) -> Matches:
    """Find the parameter that each weight of a model holds, by value and never by guess.

    The largest magnitude is the fingerprint, which survives any order of the axes and pruning by magnitude; then
    every value is compared, in any order of the axes. What is left is looked for in parts (merged and split
    tensors, gates in another order), then as a convolution or linear layer with a batch norm folded in.
    Equal parameters are one parameter with aliases. What fits in several ways, or whose values all have one
    magnitude, is matched only under its own name.
    """
    search = _Search(checkpoint)
    weights = {w.name: w for w in find(model)}
    links: dict[str, list[tuple[str, Link]]] = {}
    unmatched: dict[str, Reason] = {}
    for name, weight in weights.items():
        if weight.element not in FLOATS:
            text = f"it is {weight.dtype}, and a checkpoint holds other values"
            unmatched[name] = Reason(Kind.UNMATCHED, text)
            continue
        found = search.whole(name, weight.array(model))
        if isinstance(found, Reason):
            unmatched[name] = found
        else:
            links[name] = [found]
        model.payloads.forget_pages()
    _search_parts(model, weights, search, links, unmatched)
    _search_folds(model, weights, search, links, unmatched)
    return Matches(search.parameters(links), unmatched)


class _Search:
    """The parameters of a checkpoint by fingerprint; equal ones stand for each other."""

    def __init__(self, checkpoint: Mapping[str, Array]) -> None:
        self.arrays = {n: a for n, a in checkpoint.items() if a.size > 1 and is_real(a)}
        self.largest = {name: largest(array) for name, array in self.arrays.items()}
        self.aliases = self._same()
        self.first = {alias: name for name, others in self.aliases.items() for alias in (name, *others)}
        self.tables: dict[np.dtype, dict[tuple[int, float], list[str]]] = {}

    def _same(self) -> dict[str, list[str]]:
        """Name -> the names of the same parameter that come after it."""
        groups: dict[tuple[Shape, float], list[str]] = defaultdict(list)
        aliases: dict[str, list[str]] = {}
        for name, array in self.arrays.items():
            group = groups[array.shape, self.largest[name]]
            equal = next((n for n in group if np.array_equal(self.arrays[n], array)), None)
            if equal is not None and not constant(array):
                aliases[equal].append(name)
            else:
                group.append(name)
                aliases[name] = []
        return aliases

    def _table(self, dtype: np.dtype) -> dict[tuple[int, float], list[str]]:
        """(elements, largest magnitude in this type) -> the parameters."""
        if dtype not in self.tables:
            table = self.tables[dtype] = defaultdict(list)
            with np.errstate(over="ignore"):
                for name in self.aliases:
                    key = float(np.float64(self.largest[name]).astype(dtype))
                    table[self.arrays[name].size, key].append(name)
        return self.tables[dtype]

    def whole(self, name: str, array: Array) -> tuple[str, Link] | Reason:
        """The parameter that is the whole weight, or why there is none."""
        if not np.isfinite(key := largest(array)):
            return Reason(Kind.UNMATCHED, "it holds NaN or Inf")
        own, flat = self.first.get(name), constant(array)
        if own is not None and self.arrays[own].shape == array.shape:
            agrees = np.array_equal(self.arrays[own], array) if flat else fitting(self.arrays[own], array)[:1] == _PLAIN
            if agrees:
                return own, Link(name)  # name, shape and values: nothing is left to ask
        if flat:
            magnitude = "all its values have one magnitude"
            return Reason(Kind.UNMATCHED, f"{magnitude}: it could be any", magnitude)
        candidates = self._table(array.dtype).get((array.size, key), [])
        fits = [(n, order) for n in candidates for order in fitting(self.arrays[n], array)]
        if not fits:
            return Reason(Kind.NOT_FOUND, "no parameter holds its values")
        if len(fits) > 1:
            names = sorted({n for n, _ in fits})
            text = f"it could be {' or '.join(names)}" + (", in several orders of the axes" * (len(names) == 1))
            return Reason(Kind.UNMATCHED, text)
        parameter, (view, order) = fits[0]
        return parameter, Link(name, view=view, order=order)

    def parameters(self, links: Mapping[str, list[tuple[str, Link]]]) -> dict[str, Parameter]:
        """Every parameter that was found, with its links, in the order of the checkpoint."""
        found: dict[str, list[Link]] = defaultdict(list)
        for entries in links.values():
            for name, link in entries:
                found[name].append(link)
        return {
            name: Parameter(self.arrays[name].shape, tuple(found[name]), tuple(others))
            for name, others in self.aliases.items()
            if name in found
        }


_PLAIN = [(None, ())]


def _search_parts(
    model: Model, weights: Mapping[str, Weight], search: _Search, links: dict[str, list[tuple[str, Link]]],
    unmatched: dict[str, Reason],
) -> None:  # fmt: skip
    """Merged and split tensors, among the weights and the parameters that are left."""
    left = [name for name, reason in unmatched.items() if reason.kind is Kind.NOT_FOUND]
    used = {name for entries in links.values() for name, _ in entries}
    index = merged_tensors.Index(
        {name: search.arrays[name] for name in search.aliases if name not in used} if left else {}
    )
    for name in left:
        found = merged_tensors.assemble(name, weights[name].array(model), index)
        if found:
            links[name] = found
            del unmatched[name]
        model.payloads.forget_pages()


def _search_folds(
    model: Model, weights: Mapping[str, Weight], search: _Search, links: dict[str, list[tuple[str, Link]]],
    unmatched: dict[str, Reason],
) -> None:  # fmt: skip
    """Convolutions and linear layers with a batch norm in them, and their biases."""
    left = [name for name, reason in unmatched.items() if reason.kind is Kind.NOT_FOUND]
    index = FoldedBatchNorms(search.arrays, list(search.aliases))
    biases = {name: weights[name].array(model) for name in left if len(weights[name].shape) == 1}
    for name in left:
        weight = weights[name]
        if weight.out_axis is None or name in biases:
            continue
        found = index.unfold(weight.array(model), weight.out_axis)
        model.payloads.forget_pages()
        if len(found) > 1:
            norms = " or ".join(sorted({fold.mean for _, _, fold in found})[:2])
            unmatched[name] = Reason(Kind.UNMATCHED, f"it could be {found[0][0]} with the batch norm of {norms}")
        if len(found) != 1:
            continue
        parameter, (view, order), fold = found[0]
        links[name] = [(parameter, Link(name, view=view, order=order, fold=fold))]
        del unmatched[name]
        shift = index.shift(fold, parameter, biases)
        if shift is not None:
            links[shift.weight] = [(search.first[fold.variance], shift)]
            del biases[shift.weight], unmatched[shift.weight]
