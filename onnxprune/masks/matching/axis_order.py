"""Whether a parameter holds the values of a weight, and how its axes lie. numpy only.

Values are compared in the weight's type, so that an fp16 export fits its fp32 checkpoint. A zero in the weight
fits anything: the model may be pruned already.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from onnxprune.masks.matching.link import Array, Shape

Order = tuple[Shape | None, tuple[int, ...]]  # view and order of a Link
_RANK = 5  # axes longer than 1 that are permuted: 120 orders
_PROBES = 64
_PIECE = 1 << 20


def largest(array: Array) -> float:
    """The largest magnitude: any order of the axes and any pruning by magnitude leave it as it is."""
    if not array.size:
        return 0.0
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return max(float(wide.max()), -float(wide.min()))


def constant(array: Array) -> bool:
    """Whether all values that are not zero have one magnitude: such a tensor may be any."""
    flat = array.reshape(-1)
    first = flat[:_PIECE][flat[:_PIECE] != 0]
    if first.size and (np.abs(first) != np.abs(first[0])).any():
        return False
    return np.unique(np.abs(flat[flat != 0])).size <= 1


def orders(parameter: Shape, weight: Shape) -> Iterator[Order]:
    """Every view and order that makes the weight's shape of the parameter's, the plain one first."""
    yield (None if parameter == weight else weight), ()
    long, wanted = (tuple(d for d in shape if d != 1) for shape in (parameter, weight))
    if max(len(long), len(wanted)) > _RANK:
        return
    seen = set()
    for order in list(permutations(range(len(long))))[1:]:
        seen.add((long, order))
        yield (None if long == parameter else long), order
    for order in list(permutations(range(len(wanted))))[1:]:
        view = [0] * len(order)
        for axis, length in zip(order, wanted, strict=True):
            view[axis] = length
        if (tuple(view), order) not in seen:
            yield (None if tuple(view) == parameter else tuple(view)), order


def oriented(parameter: Array, order: Order, shape: Shape) -> Array:
    """The parameter as the weight of that shape lies, as a view where that can be."""
    view, permutation = order
    seen = parameter if view is None else parameter.reshape(view)
    return (seen.transpose(permutation) if permutation else seen).reshape(shape)


def fitting(parameter: Array, weight: Array) -> list[Order]:
    """Every order in which the parameter holds the weight's values: none, one, or several (a symmetric weight)."""
    if parameter.size != weight.size:
        return []
    flat, source = weight.reshape(-1), parameter.reshape(-1)
    places = _probes(flat)
    probes = flat[places]
    everywhere = np.linspace(0, flat.size - 1, 8 * _PROBES).astype(np.int64)
    found: dict[bytes, Order] = {}  # by where entries come from: two orders may be the same way
    for order in orders(parameter.shape, weight.shape):
        probed = _cast(source[_sources(parameter.shape, order, places)], weight.dtype)
        if (probed == probes).all() and _equal(parameter, order, flat):
            found.setdefault(_sources(parameter.shape, order, everywhere).tobytes(), order)
    return list(found.values())


def _probes(flat: Array) -> Array:
    """Places of a few values that are not zero, spread over the tensor."""
    places = np.arange(0, flat.size, max(1, flat.size // (64 * _PROBES)))
    places = places[flat[places] != 0]
    if places.size < _PROBES:
        places = np.flatnonzero(flat)
    return places[:: max(1, places.size // _PROBES)]


def _sources(parameter: Shape, order: Order, places: Array) -> Array:
    """Where the parameter has the entries that lie at places of the weight, both counted in index order."""
    view, permutation = order
    if not permutation:
        return places
    shape = parameter if view is None else view
    indices = np.unravel_index(places, tuple(shape[a] for a in permutation))
    source = tuple(indices[permutation.index(a)] for a in range(len(shape)))
    return np.asarray(np.ravel_multi_index(source, shape))


def _equal(parameter: Array, order: Order, flat: Array) -> bool:
    turned = oriented(parameter, order, (flat.size,))
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        if not ((_cast(turned[start : start + _PIECE], flat.dtype) == piece) | (piece == 0)).all():
            return False
    return True


def _cast(array: Array, dtype: np.dtype) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)
