"""What has to hold of a model after any change of its shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.pipeline.base import Pass
from onnxprune.pipeline.change import Change
from tests.helpers.running import feeds_of, initializers, load, run, serialise


def stripped(proto: ModelProto, step: Pass) -> tuple[ModelProto, Change]:
    """The model after the pass (the original is left alone), and what the pass says."""
    opened = load(proto)
    change = step.run(opened)
    return onnx.load_from_string(serialise(opened)), change


def assert_equal_outputs(before: ModelProto, after: ModelProto, tolerance: float = 1e-5, seed: int = 11) -> None:
    """Both give the same outputs, relative to the largest number of each; for one row and for several.

    Where values are quantised, ONNX Runtime's optimiser quantises float weights too, by their largest number, which
    may be that of a dead channel: there it has to compute the graph as it stands.
    """
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]
    for batch in (1, 3):
        feeds = feeds_of(before, seed + batch, batch)
        wanted, given = (compute(m, feeds) for m in (before, after))
        for out, a, b in zip(before.graph.output, wanted, given, strict=True):
            assert a.shape == b.shape, out.name
            limit = tolerance * np.abs(a).max(initial=0)
            off = np.abs(a.astype(np.float64) - b).max(initial=0)
            assert off <= limit, f"{out.name} is off by {off:.3g}, allowed {limit:.3g}"


def compute(proto: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return run(proto, feeds, optimised=all(n.op_type != "QuantizeLinear" for n in proto.graph.node))


def assert_valid(proto: ModelProto) -> None:
    """ONNX finds no fault with it, and every declared shape is the one that a run gives."""
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    assert_declared_shapes(proto)


def assert_declared_shapes(proto: ModelProto) -> None:
    made = [name for node in proto.graph.node for name in node.output if name]
    known = {*made, *(t.name for t in proto.graph.initializer), *(i.name for i in proto.graph.input)}
    declared = {i.name: i for i in (*proto.graph.value_info, *proto.graph.output)}
    assert set(declared) <= known, f"shapes of values that are not there: {set(declared) - known}"
    open_to_see = ModelProto()
    open_to_see.CopyFrom(proto)
    del open_to_see.graph.output[:]
    open_to_see.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    for name, array in zip(made, run(open_to_see, feeds_of(proto)), strict=True):
        if name in declared and declared[name].type.HasField("tensor_type"):
            kind = declared[name].type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
            if not kind.HasField("shape"):
                continue
            assert len(dims) == array.ndim, name
            assert all(d in (None, s) for d, s in zip(dims, array.shape, strict=True)), (name, dims, array.shape)
    for tensor in proto.graph.initializer:
        listed = [i for i in proto.graph.input if i.name == tensor.name]
        for entry in listed:
            dims = [d.dim_value for d in entry.type.tensor_type.shape.dim]
            assert dims == list(tensor.dims), tensor.name


def graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs_in(inner)


def _used(graph: GraphProto) -> set[str]:
    names = {o.name for inner in graphs_in(graph) for o in inner.output}
    return names | {name for inner in graphs_in(graph) for node in inner.node for name in node.input}


def unused(graph: GraphProto) -> set[str]:
    """Initializers and nodes that nothing reads."""
    used = _used(graph)
    unread = {t.name for inner in graphs_in(graph) for t in inner.initializer} - used
    return unread | {n.name for inner in graphs_in(graph) for n in inner.node if not used & set(n.output)}


def assert_names_kept(before: ModelProto, after: ModelProto) -> None:
    """What survives has the name and the place that it had, and nothing is left that fell out of use."""

    def table(proto: ModelProto) -> dict[str, NodeProto]:
        return {n.name: n for n in proto.graph.node}

    old, new = table(before), table(after)
    assert len(new) == len(after.graph.node), "two nodes of one name"
    added = {name for n in after.graph.node if n.name not in old for name in n.output}
    for name in old.keys() & new.keys():
        assert old[name].op_type == new[name].op_type, name
        for was, made in zip(old[name].output, new[name].output, strict=True):
            assert was == made or was in added, f"{name} makes {made}, and nobody makes {was}"
    order = [n.name for n in before.graph.node if n.name in new]
    assert order == [n.name for n in after.graph.node if n.name in old], "nodes changed places"
    assert unused(after.graph) <= unused(before.graph)
    types = {t.name: t.data_type for t in before.graph.initializer}
    for tensor in after.graph.initializer:
        assert tensor.data_type == types.get(tensor.name, tensor.data_type), tensor.name
    declared = {i.name for i in before.graph.value_info}
    there = {name for n in after.graph.node for name in n.output}
    assert declared & there <= {i.name for i in after.graph.value_info}, "shapes were forgotten"


def shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    return {t.name: tuple(t.dims) for t in proto.graph.initializer}


def assert_record(before: ModelProto, after: ModelProto, change: Change, exact: tuple[str, ...]) -> None:
    """`removed` says of every weight that shrank what it lost; `exact`: stems of names whose numbers do not change."""
    old, new = initializers(before), initializers(after)
    told: dict[str, np.ndarray] = {}
    for entry in change.removed:
        name, axis, indices = entry.name, entry.axis, list(entry.indices)
        assert indices == sorted(set(indices)), name
        assert len(indices) == entry.before - entry.after > 0, name
        assert old[name].shape[axis] == entry.before, name
        assert new[name].shape[axis] == entry.after, name
        told[name] = np.delete(told.get(name, old[name]), indices, axis)
    for name, array in told.items():
        assert array.shape == new[name].shape, name
        if name.rstrip("0123456789") in exact:
            assert array.tobytes() == new[name].tobytes(), f"{name}: not the indices that are recorded"
    common = {n for n in old.keys() & new.keys() if not n.startswith(("shape", "index"))}
    shrunk = {n for n in common if old[n].shape != new[n].shape}
    assert shrunk <= told.keys(), f"not recorded: {shrunk - told.keys()}"
