"""Weight: a constant that a linear layer reads, wherever models keep it, and why others are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from onnx import NodeProto, SparseTensorProto, TensorProto

from onnxprune import masks
from onnxprune.dtypes import FLOATS, QUANTISED, Array, name_of, numpy_dtype
from onnxprune.errors import ModelError, WeightError
from onnxprune.model import Model
from onnxprune.roles import Role, attribute, domain, linear_role, other_role
from onnxprune.scopes import Scope, constant_value, scopes_of

SMALL = 256  # elements; below this, what a mask saves is less than what it costs
Store = Literal["initializer", "constant", "sparse"]
_SAME_AXES = frozenset({"Identity", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
# What exporters put between a recurrent layer and the framework's own gate order: the entries stay, the axes move.
_REARRANGED = frozenset({"Slice", "Split", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_Axes = tuple[int | None, ...]


@dataclass
class Weight:
    """A constant tensor of the model with what its consumers make of it.

    Attributes:
        name: unique in the model; a tensor in a body carries the path to it.
        kind: conv, gemm, matmul, lstm ..., or what else it is (bias, norm, embedding ...).
        out_axis, in_axes: the axes of its own shape along which outputs and inputs lie, where known.
        consumers: the nodes that read it, behind Identity, Cast, Transpose and QDQ.
        reason: why it is left alone unless it is named in full; None for what is pruned by default.
        fixed: why it can never be pruned; None otherwise.
        overridable: a caller may pass another value for it, so it has to stay a plain initializer.
        scale, zero: the quantisation of an int8/uint8 weight along `scale_axis`.
    """

    name: str
    value: str
    scope: Scope
    store: Store
    tensor: TensorProto | SparseTensorProto
    shape: tuple[int, ...]
    element: int
    kind: str = "unknown"
    out_axis: int | None = None
    in_axes: tuple[int, ...] = ()
    consumers: tuple[str, ...] = ()
    reason: str | None = None
    fixed: str | None = None
    overridable: bool = False
    scale: Array | None = None
    zero: Array | None = None
    scale_axis: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> str:
        """Element type in the field's words."""
        return name_of(self.element)

    def array(self, model: Model) -> Array:
        """The dense values; a sparse initializer is expanded."""
        if isinstance(self.tensor, TensorProto):
            return model.array(self.tensor)
        values, indices = model.array(self.tensor.values), model.array(self.tensor.indices)
        dense = np.zeros(self.size, values.dtype)
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), self.shape)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.size:
            raise ModelError(f"the sparse initializer '{self.name}' has an index outside its shape")
        dense[indices] = values
        return dense.reshape(self.shape)

    def set_array(self, model: Model, array: Array) -> None:
        """Give it new values of the same shape; a sparse initializer becomes a dense one."""
        if isinstance(self.tensor, SparseTensorProto):
            body = self.scope.body
            dense = model.tensor(self.value, array, self.element)
            model.drop(self.tensor.values)
            model.drop(self.tensor.indices)
            body.sparse_initializer.remove(self.tensor)
            body.initializer.append(dense)
            self.tensor, self.store = body.initializer[-1], "initializer"
        else:
            model.replace(self.tensor, array)

    def nbytes(self, model: Model) -> int:
        """Bytes that it takes in the file."""
        if isinstance(self.tensor, TensorProto):
            return model.nbytes(self.tensor)
        return model.nbytes(self.tensor.values) + model.nbytes(self.tensor.indices)

    @property
    def zero_value(self) -> Array:
        """What a pruned entry holds, in the weight's own type: 0, or the zero point (broadcastable)."""
        dtype = numpy_dtype(self.element)
        if self.zero is None:
            return np.zeros((), dtype)
        return self._along_axis(self.zero).astype(dtype)

    def _along_axis(self, values: Array) -> Array:
        if values.size == 1 or self.scale_axis is None:
            return values.reshape(())
        shape = [1] * len(self.shape)
        shape[self.scale_axis] = -1
        return values.reshape(shape)

    def magnitudes(self, array: Array) -> Array:
        """|w| of every entry, of the dequantised value where there is a scale: float32, or float64 for fp64.

        Raises:
            WeightError: a value is NaN or infinite.
        """
        if self.element in QUANTISED:
            distance = np.abs(array.astype(np.float32) - self.zero_value.astype(np.float32))
            return distance if self.scale is None else distance * self._along_axis(self.scale).astype(np.float32)
        wide = np.float64 if self.element == TensorProto.DOUBLE else np.float32
        scores = np.abs(array.astype(wide, copy=False))
        if scores.size and not np.isfinite(scores.max()):
            raise WeightError(f"weight '{self.name}' holds NaN or Inf: it cannot be pruned by magnitude")
        return scores

    def magnitude_chunks(self, array: Array) -> Iterator[Array]:
        """`magnitudes` in pieces that fit the cache, in index order."""
        if self.element in QUANTISED:  # the scale follows an axis: one tensor is the piece
            yield self.magnitudes(array).reshape(-1)
            return
        flat = array.reshape(-1)
        for start in range(0, flat.size, masks.CHUNK):
            yield self.magnitudes(flat[start : start + masks.CHUNK])

    def zeros(self, array: Array) -> int:
        """How many entries are zero (or the zero point)."""
        if self.zero is None:
            return int(array.size - np.count_nonzero(array))
        return int(np.count_nonzero(array == self.zero_value))


@dataclass(frozen=True)
class _Use:
    """One reader of a constant, in the constant's own axes."""

    node: str
    role: Role | None
    other: str = ""
    quant: _Quantisation | None = None


@dataclass(frozen=True)
class _Quantisation:
    scale: Array | None
    zero: Array | None
    axis: int | None
    error: str = ""


@dataclass
class _View:
    """How a constant looks after the pass-through nodes that were crossed so far."""

    axes: _Axes  # for each axis of the view the constant's own one, where it is known
    quant: _Quantisation | None = None
    seen: set[int] = field(default_factory=set)


def find(model: Model) -> list[Weight]:
    """Every weight-like constant of the model, in the order of the file.

    Whole numbers (shapes, indices) and scalars are not listed.
    """
    functions = {(f.domain, f.name): s for f, s in zip(model.proto.functions, scopes_of(model.proto)[1:], strict=True)}
    found = []
    for top in [scopes_of(model.proto)[0], *functions.values()]:
        for scope in top.inner():
            for weight in _constants(scope):
                uses = list(_uses(model, functions, scope, weight.value, _View(tuple(range(len(weight.shape))))))
                weight.overridable = not scope.path and weight.value in scope.inputs and model.proto.ir_version >= 4
                _describe(weight, uses)
                found.append(weight)
    return found


def _constants(scope: Scope) -> Iterator[Weight]:
    def made(name: str, store: Store, tensor: TensorProto | SparseTensorProto, values: TensorProto) -> Iterator[Weight]:
        shape = tuple(tensor.dims)
        linear_type = values.data_type in FLOATS | QUANTISED or numpy_dtype(values.data_type) is None
        if linear_type and values.data_type != TensorProto.STRING and shape and np.prod(shape, dtype=np.int64) > 1:
            yield Weight(scope.path + name, name, scope, store, tensor, shape, values.data_type)

    for name, tensor in scope.initializers.items():
        yield from made(name, "initializer", tensor, tensor)
    for name, sparse in scope.sparse_initializers.items():
        yield from made(name, "sparse", sparse, sparse.values)
    for node in scope.body.node:
        value = constant_value(node)
        if value is not None:
            yield from made(node.output[0], "constant", value, value)


def _label(scope: Scope, node: NodeProto) -> str:
    return scope.path + (node.name or f"{node.op_type}({node.output[0] if node.output else ''})")


def _uses(
    model: Model, functions: dict[tuple[str, str], Scope], scope: Scope, name: str, view: _View
) -> Iterator[_Use]:
    """Follow a value through bodies, functions and pass-through nodes to the nodes that use it."""
    if name in scope.outputs:
        yield _Use("graph output", None, "graph output")
    for inner in scope.inner():
        if inner is not scope and inner.owner(name) is not scope:
            continue
        if inner is not scope and name in inner.outputs:
            yield _Use(inner.path, None, "body output")
        for node, position in inner.readers.get(name, ()):
            yield from _use(model, functions, inner, node, position, view)


def _use(
    model: Model, functions: dict[tuple[str, str], Scope], scope: Scope, node: NodeProto, position: int, view: _View
) -> Iterator[_Use]:
    body = functions.get((node.domain, node.op_type))
    if body is not None and id(node) not in view.seen:
        inside = _View(view.axes, view.quant, view.seen | {id(node)})
        yield from _uses(model, functions, body, body.body.input[position], inside)
        return
    standard = domain(node) == ""
    if (
        position == 0
        and (node.op_type in _SAME_AXES or node.op_type == "Transpose")
        and (standard or "Linear" in node.op_type)
    ):
        axes, quant = view.axes, view.quant
        if node.op_type == "Transpose" and axes:
            axes = tuple(axes[p] for p in attribute(node, "perm", range(len(axes))[::-1]))
        if node.op_type == "DequantizeLinear" and quant is None:
            quant = _quantisation(model, scope, node, 1, 2, axes, attribute(node, "axis", 1))
        yield from _uses(model, functions, scope, node.output[0], _View(axes, quant, view.seen))
        return
    if standard and node.op_type in _REARRANGED and (position == 0 or node.op_type == "Concat"):
        for name in node.output:
            yield from _uses(model, functions, scope, name, _View((), view.quant, view.seen))
        return
    role = linear_role(node, position, len(view.axes))
    if role is None:
        yield _Use(_label(scope, node), None, other_role(node, position), view.quant)
        return
    try:
        mapped = _in_own_axes(role, view.axes)
    except IndexError:
        yield _Use(_label(scope, node), None, f"{node.op_type} operand of an impossible rank")
        return
    quant = view.quant
    if quant is None and role.zero is not None:
        quant = _quantisation(model, scope, node, role.scale, role.zero, view.axes, role.out_axis)
    yield _Use(_label(scope, node), mapped, quant=quant)


def _in_own_axes(role: Role, axes: _Axes) -> Role:
    """The role in the constant's own axes; without axes where a rearrangement hides them."""
    if not axes:
        return replace(role, out_axis=None, in_axes=())
    inward = [axes[a] for a in role.in_axes]
    return replace(
        role,
        out_axis=None if role.out_axis is None else axes[role.out_axis],
        in_axes=tuple(a for a in inward if a is not None),
    )


def _quantisation(
    model: Model, scope: Scope, node: NodeProto, scale: int | None, zero: int, axes: _Axes, axis: int | None
) -> _Quantisation:
    """Scale and zero point as constants, and the weight's own axis that they follow."""

    def constant(position: int | None) -> tuple[Array | None, str]:
        if position is None or position >= len(node.input) or not node.input[position]:
            return None, ""
        tensor = scope.constant(node.input[position])
        if tensor is None:
            return None, "its quantisation is computed at run time"
        return model.array(tensor), ""

    (scales, no_scale), (zeros, no_zero) = constant(scale), constant(zero)
    error = no_scale or no_zero
    if attribute(node, "block_size", 0):
        error = "it is quantised in blocks"
    own = axes[axis] if axis is not None and -len(axes) <= axis < len(axes) else None
    return _Quantisation(scales, zeros, own, error)


def _describe(weight: Weight, uses: list[_Use]) -> None:
    """Draw kind, axes and the reason to leave it alone from all readers together."""
    weight.consumers = tuple(dict.fromkeys(u.node for u in uses))
    linear = [u.role for u in uses if u.role is not None]
    others = list(dict.fromkeys(u.other for u in uses if u.role is None))
    if linear:
        weight.kind = linear[0].kind
        axes = {(r.out_axis, r.in_axes) for r in linear}
        if len(axes) == 1:
            weight.out_axis, weight.in_axes = next(iter(axes))
    elif others:
        weight.kind = others[0]
    if not uses:
        weight.kind, weight.reason = "unused", "nothing reads it"
    elif others:
        weight.reason = (
            f"also read as {others[0]}" if linear else f"is a {others[0]}".replace("a embedding", "an embedding")
        )
    elif weight.size < SMALL:
        weight.reason = f"is small: {weight.size} elements, fewer than {SMALL}"
    if numpy_dtype(weight.element) is None:
        weight.fixed = f"its type {weight.dtype} is not pruned"
    elif weight.element in QUANTISED:
        _set_quantisation(weight, uses)
    weight.reason = weight.fixed or weight.reason


def _set_quantisation(weight: Weight, uses: list[_Use]) -> None:
    quants = [u.quant for u in uses]
    first = quants[0] if quants else None
    if first is None or any(q is None for q in quants):
        weight.fixed = f"is {weight.dtype} without a known zero point"
        return
    error = next((q.error for q in quants if q is not None and q.error), "")
    if error or any(not _same(q, first) for q in quants if q is not None):
        weight.fixed = error or "its readers disagree on its zero point"
        return
    zero = first.zero if first.zero is not None else np.zeros(1, numpy_dtype(weight.element))
    weight.scale, weight.zero, weight.scale_axis = first.scale, zero, first.axis
    for values in (weight.scale, weight.zero):
        fits = first.axis is not None and values is not None and values.size == weight.shape[first.axis]
        if values is not None and values.size != 1 and not fits:
            weight.fixed = "its scale does not fit its shape"
    if zero.size and (zero == zero.reshape(-1)[0]).all():  # symmetric: one zero point for all channels
        weight.zero = zero.reshape(-1)[:1]


def _same(a: _Quantisation, b: _Quantisation) -> bool:
    return a.axis == b.axis and all(
        (x is None) == (y is None) and (x is None or y is None or np.array_equal(x, y))
        for x, y in ((a.scale, b.scale), (a.zero, b.zero))
    )
