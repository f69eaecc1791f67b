"""Targets: the runtimes that a file is for, and what all of them were seen to read right and no slower than dense.

A runtime that reads a form wrong without an error is the reason for this file: nothing is allowed here that was not
seen to give the outputs of the decoded model, see `measured`. Integers that a kernel reads are left to onnxruntime, by
which results are verified: kernels of other runtimes round in ways of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from onnxprune.encodings import FORMS, GATHERED, GRAPH
from onnxprune.encodings.measured import LARGE_GATHER, LARGE_MATMUL, LARGEST_GATHER, Key, number, releases
from onnxprune.encodings.values.blocks import Int2
from onnxprune.encodings.values.dynamic import Int8Dynamic
from onnxprune.errors import OptionError
from onnxprune.model.scopes import Scope

# Whose integer kernels are those of the verified runs; the rounding of int8-dynamic is the same everywhere.
KERNELS = frozenset({"onnxruntime", "ort-format"})
_OLDEST = {"onnxruntime": "1.25"}  # to support, unless told; of others the newest that was measured
_TABLES = frozenset(
    {"mnn", "onnxruntime", "onnxruntime-web", "opencv", "openvino", "ort-format", "tract", "tvm"}
)  # where tables that are decoded row by row were timed in a whole model
# onnx2tf computes other numbers without an error where a bias of Gemm comes from a Cast, unless it finds the command
# onnxsim (LeNet-5: 0.006, litert 2.1.0).
_EXACT_BIASES = frozenset({"litert"})
EVERY_ENCODING = frozenset({*GRAPH, GATHERED.name, "coo"})
# `any` would be empty, or be halves: ORT format expands all but integers of kernels, and TVM folds no Slice, which cuts
# off what fills the last word of codes. What IREE reads with options of its compiler it need not read without.
_NOT_ANY = frozenset({"iree-at-load", "ort-format", "tvm"})
# What a compiler or converter has to be told for a file to be read as it was measured.
_NEEDED = {
    "iree-at-load": "compile for iree-at-load with --iree-opt-const-eval=false "
    "--iree-opt-const-expr-max-size-increase-threshold=1099511627776: IREE would decode the weights while it compiles, "
    "or at each run",
}
_LAYERS = {
    "MatMul": ("MatMul",), "Gemm": ("Gemm Relu",), "Conv": ("Conv",), "Gather": ("Gather",),
    "LSTM": ("LSTM",), "GRU": ("LSTM",), "RNN": ("LSTM",),
}  # fmt: skip
# Entries above which a weight is judged by the next larger that was measured too.
_LARGE, _LARGEST = 1 << 19, 1 << 20
_SCALED = {"escape": "int4"}  # the value form with a scale, where that of int8 has no codes
# Those whose integers a kernel may read: which of them it is, is not looked at.
_FUSED = ("MatMul", "MatMul Add", "Gemm Relu")
_OTHERS = ("MatMul", "Gemm Relu", "Conv", "Gather")  # what another reader is judged by: all of them
_QUANTISED = ("QDQ MatMul", "QDQ Conv")


def readers_in(scope: Scope, value: str) -> set[str]:
    """The operators that read a value, in a body and below."""
    return {node.op_type for inner in scope.inner() for node, _ in inner.readers.get(value, ())}


@dataclass(frozen=True)
class Targets:
    """What all of some runtimes read.

    Attributes:
        names: of them, as they were asked for; without one everything is allowed.
        good: the forms, by the layer that reads the weight.
        integers: the value forms whose small integers kernels may read.
        tables: whether tables may be decoded row by row.
        half_biases: whether biases and norms may be halves.
        runtimes: their names, without a version.
        needed: what a compiler or converter has to be told, a sentence for each target that wants something.
    """

    names: tuple[str, ...] = ()
    good: frozenset[Key] = frozenset()
    integers: frozenset[str] = frozenset(FORMS)
    tables: bool = True
    half_biases: bool = True
    runtimes: frozenset[str] = frozenset()
    needed: tuple[str, ...] = ()

    @classmethod
    def of(cls, specs: Iterable[str]) -> Targets:
        """From NAME or NAME>=VERSION; `any` stands for all but iree-at-load, ort-format and tvm.

        Raises:
            OptionError: a runtime is not known, or a version is older than what was measured.
        """
        asked = tuple(dict.fromkeys(specs))
        if not asked:
            return cls()
        wanted = [parsed for spec in asked for parsed in _parsed(spec)]
        good = frozenset.intersection(*(_good(name, version) for name, version in wanted))
        integers = frozenset(values for _, values, fused, _ in good if fused)
        names = frozenset(name for name, _ in wanted)
        needed = tuple(_NEEDED[name] for name in sorted(names & _NEEDED.keys()))
        return cls(asked, good, integers, names <= _TABLES, not names & _EXACT_BIASES, names, needed)

    @property
    def encodings(self) -> frozenset[str]:
        """Names of the encodings that may be taken somewhere."""
        if not self.names:
            return EVERY_ENCODING
        return frozenset(key[0] for key in self.good) | ({GATHERED.name} if self.tables else set())

    def takes(self, encoding: str) -> bool:
        """Whether an encoding may be taken somewhere; without a target every one, of other packages too."""
        return not self.names or encoding in self.encodings

    def allows(
        self, encoding: str, values: str, readers: Iterable[str], fused: bool = False, scaled: bool = False,
        entries: int = 0,
    ) -> bool:  # fmt: skip
        """Whether a weight that these operators read may have a form; without a target every one.

        Args:
            encoding: its name.
            values: the value form's name.
            readers: operators; one that was not measured counts like the worst of those that were.
            fused: whether the integers are for a kernel.
            scaled: whether a scale stands behind: dense that is a product, else what is scattered is as int8 is, and
                what is looked up as int4.
            entries: how many the weight has.
        """
        if not self.names or (encoding == "dense" and values == "exact"):
            return True
        if encoding == GATHERED.name:
            return self.tables
        readers = {*readers} or {""}
        layers = {layer for reader in readers for layer in _layers(reader, values, fused)}
        layers |= set() if fused else _large_layers(readers, entries)
        read = all((encoding, values, fused, layer) in self.good for layer in layers)
        alike = _SCALED.get(encoding, "int8")
        return read and (not scaled or encoding == "dense" or self.allows(encoding, alike, readers, entries=entries))

    @property
    def left_out(self) -> str:
        """What they do not read, in words; "" if nothing."""
        if not self.names:
            return ""
        out = sorted(EVERY_ENCODING - self.encodings)
        out += [] if self.integers - {Int8Dynamic.name} else ["integers in front of MatMul"]
        recurrent = {encoding for encoding, _, _, layer in self.good if layer == "LSTM"}
        out += [] if recurrent > {"dense"} else ["sparse weights of LSTM, GRU and RNN"]
        return ", ".join(out)


def _layers(reader: str, values: str, fused: bool) -> tuple[str, ...]:
    """The measured layers that an operator is judged by."""
    if fused:
        return _FUSED
    if reader == "DequantizeLinear" and values == "exact":
        return _QUANTISED
    return _LAYERS.get(reader, _OTHERS)


def _large_layers(readers: Iterable[str], entries: int) -> set[str]:
    """The measured layers that a weight of so many entries is judged by, beside those of its readers."""
    layers = ({LARGE_GATHER} if entries > _LARGE else set()) | ({LARGEST_GATHER} if entries > _LARGEST else set())
    products = any(reader not in _LAYERS or _LAYERS[reader][0] in _FUSED for reader in readers)
    return layers | ({LARGE_MATMUL} if entries > _LARGE and products else set())


def misread(name: str, encoding: str, values: str, readers: Iterable[str], fused: bool) -> bool:
    """Whether the newest release of a runtime was seen to give other outputs for a form that these operators read."""
    layers = {layer for reader in readers for layer in _layers(reader, values, fused)}
    return any((encoding, values, fused, layer) in releases()[name][-1].wrong for layer in layers)


# The release of onnxruntime from which on a kernel is sound and fast. Before, int8-dynamic is multiplied wrong on
# processors with AMX, from 32 rows on (microsoft/onnxruntime#27671), and int2 is 15 times slower than dense on those
# without AVX512 (1.28.0, 784x300 and 1024x1024 at batch 1).
_KERNEL_SINCE = {Int8Dynamic.name: "1.25", Int2.name: "1.29"}


@cache
def _good(name: str, version: str) -> frozenset[Key]:
    """What every measured release from a version on reads right and fast."""
    held = [release for release in releases()[name] if number(release.version) >= number(version)]
    good = frozenset.intersection(*(release.good for release in held))
    if name not in KERNELS:
        good -= frozenset().union(*(release.read_as_integers for release in held))
    if name == "onnxruntime":
        good = frozenset(key for key in good if not key[2] or number(version) >= number(kernel_since(key[1])))
    return good if name in KERNELS else frozenset(key for key in good if not key[2] or key[1] == Int8Dynamic.name)


EVERY_FORM = Targets()


def kernel_since(values: str) -> str:
    """The release of onnxruntime from which on a kernel reads the integers of a form."""
    return _KERNEL_SINCE.get(values, _OLDEST["onnxruntime"])


def _parsed(spec: str) -> list[tuple[str, str]]:
    """The names and versions of a spec."""
    found = re.fullmatch(r"([a-z-]+)(?:>=(\d+(?:\.\d+)*))?", spec.replace(" ", ""))
    if found is not None and found[1] == "any" and not found[2]:
        return [(name, _oldest(name)) for name in releases() if name not in _NOT_ANY]
    if found is None or found[1] not in releases():
        raise OptionError(f"target '{spec}' is not one of any, {', '.join(releases())} (or NAME>=VERSION)")
    name, version = found[1], found[2] or _oldest(found[1])
    first, last = (number(releases()[name][place].version)[: len(number(version))] for place in (0, -1))
    if not first <= number(version) <= last:
        raise OptionError(f"target '{spec}': measured were {_span(name)}")
    return [(name, version)]


def _span(name: str) -> str:
    """The measured releases."""
    first, last = releases()[name][0].version, releases()[name][-1].version
    return f"{name} {first}" if first == last else f"{name} {first} to {last}"


def _oldest(name: str) -> str:
    return _OLDEST.get(name) or releases()[name][-1].version
