"""ONNX Runtime: open a model, run it, and say in one line why it would not."""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.core.dtypes import Array
from onnxprune.errors import NotLoaded, RuntimeFailure
from onnxprune.model.scopes import DEFAULT_DOMAIN

if TYPE_CHECKING:
    import onnxruntime as ort

_RUNS, _TIMED = 5, 0.3  # at least so many timed runs, and more within so many seconds
HELD = 1 << 30  # bytes of outputs that are kept; beyond, the model runs again
_SPINNING = "session.intra_op.allow_spinning"
# Of these onnx 1.23.2's reference implementation passes over attributes and inputs, or takes another opset's meaning:
# findings/onnx_reference_passes_over_what_nodes_say.sh and onnxscript_folds_what_the_reference_gets_wrong.sh.
_UNLIKE = frozenset({
    "BatchNormalization", "GRU", "Hardmax", "LRN", "LSTM", "LogSoftmax", "LpNormalization", "LpPool", "RNN",
    "ReduceSumSquare", "Softmax",
})  # fmt: skip
_threads = 0
Feeds = Mapping[str, Array]
_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(int16)": np.int16, "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32, "tensor(uint32)": np.uint32, "tensor(int64)": np.int64, "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}  # fmt: skip


_TYPES_IN = frozenset({*_TYPES.values(), np.object_, np.str_, ml_dtypes.bfloat16})  # what a node by itself is given


@dataclass(frozen=True)
class Input:
    """An input of a model: a dimension is a size, a symbol, or None where nothing is known."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: Any  # None where numpy has no such tensor of numbers (strings, sequences, bfloat16)
    type: str


def use_threads(count: int) -> None:
    """Sessions that this process opens from now on have so many threads each; 0 leaves it to ONNX Runtime."""
    global _threads
    _threads = count


def session_options(threads: int = 0) -> ort.SessionOptions:
    """The options of a session, as ONNX Runtime has them; with so many threads where a number is given."""
    import onnxruntime as ort  # a tenth of a second, and many commands run no model

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def as_written(arrays: Mapping[str, Array] | None = None) -> ort.SessionOptions:
    """Options of a session that runs the nodes as they stand: it opens in a fifth of the time that optimising takes.

    Matrices are not laid out for its kernels first, which would copy each, and what a run took is given back.

    Args:
        arrays: initializers by name, `feedable` and aligned, that the model refers to as external data. The caller
            holds them as long as the session.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    if arrays:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        options.add_external_initializers(list(arrays), values)
    return options


def feedable(array: Array) -> bool:
    """Whether ONNX Runtime takes the array from Python."""
    return array.dtype.type in _TYPES.values()


def open_session(
    model: str | os.PathLike[str] | bytes, name: str = "", options: ort.SessionOptions | None = None, *,
    spinning: bool = False,
) -> ort.InferenceSession:  # fmt: skip
    """A CPU session for a file, or for the bytes of a model that errors call `name`.

    Threads that wait for work do not spin, which takes time from what else runs; `spinning` lets them, as ONNX Runtime
    does by default: to measure how long a user waits.

    Raises:
        RuntimeFailure: ONNX Runtime does not load it.
    """
    import onnxruntime as ort

    options = options or ort.SessionOptions()
    options.intra_op_num_threads = options.intra_op_num_threads or _threads
    if not spinning:
        try:  # options that serve several sessions have it, and ONNX Runtime warns of a second time
            options.get_session_config_entry(_SPINNING)
        except RuntimeError:
            options.add_session_config_entry(_SPINNING, "0")
    options.log_severity_level = 4  # what goes wrong is raised; what is merely remarked is not the user's
    try:
        source = model if isinstance(model, bytes) else os.fspath(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise NotLoaded(name or str(model), *_said(error)) from error


def inputs_of(session: ort.InferenceSession) -> list[Input]:
    """What the session has to be given; a size below 1 counts as unknown."""
    return [
        Input(
            i.name,
            tuple((d if d > 0 else None) if isinstance(d, int) else d for d in i.shape),
            _TYPES.get(i.type),
            i.type,
        )
        for i in session.get_inputs()
    ]


def series_of(session: ort.InferenceSession) -> frozenset[str]:
    """The outputs of one axis that has no size: a number for each sample, or each step, and no row of scores."""
    return frozenset(o.name for o in session.get_outputs() if len(o.shape) == 1 and not isinstance(o.shape[0], int))


def run(session: ort.InferenceSession, feeds: Feeds, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Outputs by name, all of them or those that are named.

    Raises:
        RuntimeFailure: the model cannot run on these inputs.
    """
    names = [o.name for o in session.get_outputs()] if names is None else names
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise RuntimeFailure(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error


def each_run(session: ort.InferenceSession, feeds: Sequence[Feeds]) -> Iterator[dict[str, Any]]:
    """What the session gives for each feed, one after the other: of large images it is more than memory should hold.

    Raises:
        RuntimeFailure: the model cannot run on one of them.
    """
    return (run(session, feed) for feed in feeds)


def evaluate(node: NodeProto, arrays: Sequence[Array | None], model: ModelProto) -> list[Array]:
    """What a single node of a model computes from the arrays; None stands for an input that is left out.

    bfloat16, which ONNX Runtime neither takes nor gives in Python, goes in as initializers and comes out as float32.
    Smaller types, for which it lacks most kernels too, and operators of opsets that it does not know yet are computed
    by the reference implementation of onnx.

    Raises:
        RuntimeFailure: it is not computed.
    """
    if any(array is not None and array.dtype.type not in _TYPES_IN for array in arrays):
        return _reference(node, arrays, model)
    first = arrays[0] if arrays else None
    if node.op_type == "Relu" and node.domain in DEFAULT_DOMAIN and first is not None and first.dtype.kind == "f":
        return [np.maximum(first, 0)]  # by far the most usual: a session takes a tenth of a second to begin with
    alone = NodeProto()
    alone.CopyFrom(node)
    given = {f"i{position}": array for position, array in enumerate(arrays) if array is not None}
    alone.input[:] = [f"i{position}" if array is not None else "" for position, array in enumerate(arrays)]
    alone.output[:] = [f"o{position}" if name else "" for position, name in enumerate(node.output)]
    outputs, nodes, inputs, held = [name for name in alone.output if name], [alone], [], []
    if any(array.dtype == ml_dtypes.bfloat16 for array in given.values()):
        nodes += [helper.make_node("Cast", [name], [f"{name} wide"], to=TensorProto.FLOAT) for name in outputs]
        outputs = [f"{name} wide" for name in outputs]
        held = [numpy_helper.from_array(array, name) for name, array in given.items()]
        given = {}
    for name, array in given.items():
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
    graph = helper.make_graph(nodes, "node", inputs, [ValueInfoProto(name=name) for name in outputs], held)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
    try:
        session = open_session(made.SerializeToString(), f"a {node.op_type} by itself", as_written())
    except NotLoaded:
        return _reference(node, arrays, model)
    return list(run(session, given).values())


def _reference(node: NodeProto, arrays: Sequence[Array | None], model: ModelProto) -> list[Array]:
    """`evaluate` by onnx's own implementation, which knows every type."""
    from onnx.reference import ReferenceEvaluator  # a tenth of a second that most commands do without

    if node.op_type in _UNLIKE:
        raise RuntimeFailure(f"onnx computes {node.op_type} otherwise than it is specified")
    given = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    outputs = [ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        return [np.asarray(found) for found in ReferenceEvaluator(made).run(None, given)]
    except Exception as error:  # onnx's implementations raise anything
        raise RuntimeFailure(f"onnx does not compute {node.op_type}: {_first_line(error)}") from error


class Runner:
    """A session, and the outputs that it gave: for the same feeds it runs once, as long as they are few bytes."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self._known: tuple[Sequence[Feeds], list[dict[str, Any]]] = ((), [])  # one value: threads may share it

    def outputs(self, feeds: Sequence[Feeds]) -> Iterator[dict[str, Any]]:
        """What the model gives for each feed.

        Raises:
            RuntimeFailure: it cannot run on one of them.
        """
        known, held = self._known
        if known is feeds:
            yield from held
            return
        held = []
        for number, found in enumerate(each_run(self.session, feeds)):
            if len(held) == number and (number + 1) * nbytes(found) <= HELD:
                held.append(found)
            yield found
        if len(held) == len(feeds):
            self._known = feeds, held


def latency(session: ort.InferenceSession, feeds: Feeds) -> float:
    """Median milliseconds of a run, after one to warm up."""
    run(session, feeds)
    times: list[float] = []
    while len(times) < _RUNS or (sum(times) < _TIMED and len(times) < 20 * _RUNS):
        start = time.perf_counter()
        run(session, feeds)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def profile(
    path: str | os.PathLike[str],
    use: Callable[[ort.InferenceSession], object],
    options: ort.SessionOptions | None = None,
) -> list[dict[str, Any]]:
    """The events that ONNX Runtime's profiler records while `use` runs a session of the file.

    Raises:
        RuntimeFailure: the model does not load or run, or the profile cannot be read.
    """
    options = options or session_options()
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = open_session(path, options=options, spinning=True)
        use(session)
        try:
            return json.loads(Path(session.end_profiling()).read_text(errors="replace"), strict=False)
        except ValueError as error:
            raise RuntimeFailure(f"ONNX Runtime's profile of {path!s} cannot be read: {error}") from error


# What ONNX Runtime says where it names a node: (name, operator) in one order or the other.
_NODES = (
    re.compile(r'In Node, \("(?P<name>.*?)", (?P<operator>\w+),'),
    re.compile(r"for (?P<operator>\w+)\(\d+\) node with name '(?P<name>.*?)'"),
    re.compile(r"of operator \((?P<operator>\w+)\) in node \((?P<name>.*?)\)"),
    re.compile(r"Node ?\((?P<name>.*?)\) Op ?\((?P<operator>\w+)\)"),
)
_IN_THE_SOURCE = re.compile(r"/\S*onnxruntime/core/\S+:\d+ .*?\) (?:const )?(?=[A-Z])")  # a file, a line, a function


def _first_line(error: Exception) -> str:
    text = re.sub(r"^(.* : )?Load model from .*? failed: *", "", _IN_THE_SOURCE.sub("", str(error)), flags=re.DOTALL)
    text = text.split(" : ")[-1] if " : " in text else text
    return text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__


def _said(error: Exception) -> tuple[str, tuple[str, str] | None]:
    """Why a model is not loaded, and the node that is named: its name, perhaps none, and operator."""
    text, line = str(error), _first_line(error)
    found = next(filter(None, (pattern.search(text) for pattern in _NODES)), None)
    if found is None:
        return line, None
    return line.partition(" , Error ")[2] or line, (found["name"], found["operator"])


def equal(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two lists of outputs are the same bit for bit."""
    return len(a) == len(b) and all(map(_same, a, b))


def _same(a: Any, b: Any) -> bool:
    """Whether two outputs are the same: arrays bit for bit, texts, and sequences and maps of them."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b) and bool(a == b)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bool((a == b).all()) if a.dtype.hasobject else a.tobytes() == b.tobytes()


def nbytes(outputs: Mapping[str, Any]) -> int:
    """Bytes of the arrays among the outputs of a run."""
    return sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))
