"""Which runtimes read an encoded model: what `tools/compat` measured, and what of it concerns one model.

Measured on 2026-11-23 with onnxruntime 1.15.1 to 1.32.0 (the last patch of each release) and OpenVINO 2026.4.1, on
CPUs. Older releases were not tried: they do not install on Python 3.11.

What decides is what the nodes are, not who reads them: onnxruntime folds every form in front of every consumer, but
for DequantizeLinear, which it keeps for the kernel that reads integers. Releases that lack the kernel dequantise at
every inference: 1.15 to 1.24 took 20 to 40 times as long as with a dense weight (1024x4096, one row, two threads).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.encodings import FORMS, packing
from onnxprune.encodings.graph.encoded import EncodedWeight, encoded_weights
from onnxprune.encodings.measured import releases
from onnxprune.encodings.misread_operators import misreaders
from onnxprune.encodings.targets import Targets, misread, readers_in
from onnxprune.model.discovery import find
from onnxprune.model.model import Model
from onnxprune.model.operators import RECURRENT_OPERATORS
from onnxprune.model.scopes import scopes_of

OLDEST = "1.15"
FUSING = "1.25"  # the first with a kernel for all integers in front of a MatMul
# The first onnxruntime release that reads an opset and an IR version.
RELEASES = (
    (OLDEST, 19, 9), ("1.17", 20, 9), ("1.18", 21, 10), ("1.21", 22, 10), ("1.23", 23, 11), ("1.24", 25, 13),
    ("1.25", 26, 13), ("1.32", 28, 14),
)  # fmt: skip


@dataclass(frozen=True)
class Support:
    """Of a form: the lowest opset, the onnxruntime release that loads it, the one from which it runs fast."""

    opset: int
    loads: str = OLDEST
    fast: str = OLDEST


COO = Support(11)
# int4 in front of a MatMul that no Add follows is fast from 1.23 on, as an initializer from 1.22 on. The kernel for
# int2 came with 1.28 for processors with AVX512, with 1.29 for those with AVX2 alone.
_FUSED = {"int8": (OLDEST, FUSING), "int8-dynamic": (OLDEST, FUSING), "int4": ("1.23", FUSING)}
_STORED = {"int4": ("1.20", FUSING), "int2": ("1.24", "1.29")}  # where an initializer holds the small integers


def support(encoding: str, values: str, fused: bool = False, stored: bool = False) -> Support:
    """What an encoding with a value form needs.

    Args:
        encoding: its name.
        values: the name of the value form.
        fused: whether DequantizeLinear stands in front of a MatMul.
        stored: whether it reads an initializer of less than a byte an entry.
    """
    if encoding == "coo":
        return COO
    held = packing(encoding)
    assert held is not None
    opset = max(held.opset, FORMS[values]().opset(fused))
    return Support(opset, *(_STORED if stored else _FUSED)[values]) if fused else Support(opset)


# OpenVINO: how it takes a form, and why. What it loads it decodes once, while compiling.
OPENVINO = {
    "sparse initializers": ("no", "OpenVINO reads no sparse initializer: encode with --encoding graph"),
    "BitShift": ("no", "OpenVINO does not compile the bitmask from opset 11 on: encode with --encoding flat"),
    "recurrent": (
        "no",
        "OpenVINO wants the weights of LSTM, GRU and RNN as constants, and folds neither flat nor rows",
    ),
    "": ("loads", ""),
}
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class FormCompatibility:
    """The encoded weights that have one form.

    Attributes:
        form: encoding and value form; "for MatMul" where a kernel can read the integers.
        weights: how many.
        opset: the lowest opset whose operators it has.
        loads: the onnxruntime release from which this model's weights load, None if newer than those tried.
        fast: the one from which they are folded while loading, or read as integers.
        openvino: loads, or no.
        note: why, in a sentence.
    """

    form: str
    weights: int
    opset: int
    loads: str | None
    fast: str | None
    openvino: str
    note: str


@dataclass(frozen=True)
class Compatibility:
    """What a model needs of a runtime; `loads` and `fast` hold for the model with all its weights.

    `targets` names the runtimes that read every encoded weight right and no slower, see `targets`; `wrong` those that
    were seen to give other outputs, without an error, for a form or an operator that is in it.
    """

    opset: int
    ir_version: int
    loads: str | None
    fast: str | None
    forms: list[FormCompatibility]
    targets: list[str]
    wrong: list[str]


def compatibility(model: Model) -> Compatibility:
    """The forms in a model, and the releases that they and its own versions need."""
    own = release_of(model.opset, model.proto.ir_version)
    counts = Counter(_forms(model))
    forms = []
    for (encoding, values, fused, stored, trouble), count in sorted(counts.items()):
        needs = support(encoding, values, fused, stored)
        name = encoding if values == "exact" else f"{encoding} {values}{' for MatMul' if fused else ''}"
        loads, fast = newest(own, needs.loads), newest(own, needs.fast)
        forms.append(FormCompatibility(name, count, needs.opset, loads, fast, *OPENVINO[trouble]))
    loads, fast = newest(own, *(f.loads for f in forms)), newest(own, *(f.fast for f in forms))
    return Compatibility(model.opset, model.proto.ir_version, loads, fast, forms, *_targets(model))


def session_entries(model: Model) -> dict[str, str]:
    """The session's entries under which onnxruntime without the kernels runs a model as fast as its dense original.

    Releases before `FUSING` lack them, and some processors (`has_integer_kernels`). Without the kernel integers in
    front of a MatMul are dequantised at every inference; without ONNX Runtime's treatment of quantised operators they
    are folded to floats while loading. A model that quantises values itself keeps that treatment.
    """
    fused = [group for group in encoded_weights(model) if group.fused and not group.dynamic]
    ours = {id(node) for group in fused for node in group.nodes}
    nodes = (node for top in scopes_of(model.proto) for scope in top.inner() for node in scope.body.node)
    own = any(node.op_type in _QUANTISING and id(node) not in ours for node in nodes)
    return {"session.disable_quant_qdq": "1"} if fused and not own else {}


def _held(model: Model) -> list[tuple[str, str, set[str], bool, bool, int]]:
    """Of each encoded weight the arguments of `Targets.allows`."""
    held = [
        ("coo", "exact", readers_in(weight.scope, weight.value), False, False, weight.size)
        for weight in find(model)
        if weight.store == "sparse"
    ]
    for group in encoded_weights(model):
        scaled = f"{group.prefix}scale" in group.constants and not group.fused
        held.append((group.encoding, group.values, group.readers, group.fused, scaled, group.entries(model)))
    return held


def _targets(model: Model) -> tuple[list[str], list[str]]:
    """The runtimes that read every encoded weight right, and those that give other outputs."""
    held, good, wrong = _held(model), [], []
    misreading = misreaders(model, releases())(model.opset)
    for name in releases():
        target = Targets.of([name])
        if name in misreading:
            wrong.append(name)
        elif all(target.allows(*each) for each in held):
            good.append(name)
        elif any(misread(name, *each[:4]) for each in held):
            wrong.append(name)
    return good, wrong


def _forms(model: Model) -> Iterator[tuple[str, str, bool, bool, str]]:
    """Of each encoded weight: encoding, value form, whether it is made to fuse, and is packed, what OpenVINO minds."""
    for weight in find(model):
        if weight.store == "sparse":
            yield "coo", "exact", False, False, "sparse initializers"
    for group in encoded_weights(model):
        made = [n for n in group.scope.body.node if n.output]
        kinds = {n.op_type for n in made if n.output[0] == group.value or n.output[0].startswith(group.prefix)}
        yield group.encoding, group.values, group.fused, group.packed, _trouble(group, kinds)


def _trouble(group: EncodedWeight, kinds: set[str]) -> str:
    """The key of `OPENVINO`."""
    if "BitShift" in kinds:
        return "BitShift"
    if "CumSum" in kinds and not group.gathered:
        inner = [reader for scope in group.scope.inner() for reader, _ in scope.readers.get(group.value, [])]
        if any(reader.op_type in RECURRENT_OPERATORS for reader in inner):
            return "recurrent"
    return ""


def release_of(opset: int, ir_version: int) -> str | None:
    """The first onnxruntime release that reads an opset and an IR version, None if newer than those tried."""
    return next((name for name, high, ir in RELEASES if opset <= high and ir_version <= ir), None)


def newest(*releases: str | None) -> str | None:
    """The newest of releases; None is newer than all."""
    known = [release for release in releases if release is not None]
    if len(known) < len(releases):
        return None
    return max(known, key=lambda release: tuple(map(int, release.split("."))))
