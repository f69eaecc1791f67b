"""Made the files beside this one: every encoding with the value forms, in the places where weights are kept.

PYTHONPATH=. python tests/data/encoded-1/make.py FOLDER

`MODEL-ENCODING-VALUES.onnx` is encoded, `MODEL-VALUES.npz` holds its decoded weights, the same for every encoding.
Files of this version must decode for ever. To make them again is no repair: another format is another folder.

| model | what it holds |
|---|---|
| fused | a MatMul and a Gemm that reads the transpose: DequantizeLinear reads the integers of int8 and int4 |
| folded | a Gemm with alpha and a convolution: scales per channel or block, folded when the model is loaded |
| product | a MatMul and a Gemm that multiply integers of int8-dynamic |
| twice | a matrix that a MatMul reads as integers and an Add as numbers |
| table | rows that two Gathers read, each decoded by itself |
| if, function, opset9, ir3, qdq, fp64 | those of the tests' builders: other bodies, opsets, IR versions and types |

`packed.onnxz` is packed from `fused-dense-int8.onnx`, `curves.json` is a sensitivity scan of `folded`, and `batch` is
the folder that a call for several models wrote.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

import onnxprune
from onnxprune.encodings.graph import tables
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.search import sensitivity
from tests.helpers.builders import MODELS, info, model, node, normal
from tests.helpers.running import arrays

tables.MIN_ROWS = tables.MIN_ELEMENTS = 1  # a small file shows as much
ENCODINGS = ("flat", "rows", "bitmask", "dense")
FORMS = ("exact", "half", "shared:4", "int8", "int4")


def fused() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "first"], ["h"]),
        node("Gemm", ["h", "second", "bias"], ["g"], transB=1),
        node("Relu", ["g"], ["y"]),
    ]
    weights = {"first": normal(64, 64), "second": normal(64, 64, seed=1), "bias": normal(64, seed=2)}
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64])], weights, opset=21, ir_version=10)


def product() -> onnx.ModelProto:
    """Without the Relu, that no row of the second product is small."""
    nodes = [node("MatMul", ["x", "first"], ["y"]), node("Gemm", ["x", "second", "bias"], ["z"], transB=1)]
    weights = {"first": normal(64, 64), "second": normal(64, 64, seed=1), "bias": normal(64, seed=2)}
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 64]), info("z", ["N", 64])], weights)


def folded() -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "matrix"], ["h"], transB=1, alpha=0.5),
        node("Reshape", ["h", "sizes"], ["image"]),
        node("Conv", ["image", "kernel"], ["y"]),
    ]
    weights = {"matrix": normal(36, 64), "kernel": normal(60, 4, 3, 3, seed=1), "sizes": np.array([-1, 4, 3, 3])}
    return model(nodes, [info("x", ["N", 64])], [info("y", ["N", 60, 1, 1])], weights)


def twice() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "w"], ["y"])]
    return model(nodes, [info("x", [64, 64])], [info("y", [64, 64])], {"w": normal(64, 64)}, opset=21, ir_version=10)


def table() -> onnx.ModelProto:
    nodes = [node("Gather", ["w", "first"], ["a"]), node("Gather", ["w", "second"], ["b"], axis=0)]
    outputs = [info(name, [3, 50]) for name in ("a", "b")]
    ids = [info(name, [3], TensorProto.INT64) for name in ("first", "second")]
    return model(nodes, ids, outputs, {"w": normal(64, 50)}, opset=13)


BUILD = {
    "fused": (fused, 0.97),
    "folded": (folded, 0.88),
    "product": (product, 0.9),
    "twice": (twice, 0.97),
    "table": (table, 0.5),
}  # the sparsity
BUILD |= {name: (MODELS[name][0], 0.88) for name in ("if", "function", "opset9", "ir3", "qdq", "fp64")}
FILES = [
    *(("folded", encoding, form) for encoding in ENCODINGS for form in FORMS if (encoding, form) != ("dense", "exact")),
    *(("fused", encoding, form) for encoding in ENCODINGS for form in ("int8", "int4")), ("folded", "flat", "int8:5"),
    ("fused", "flat", "int8:5"), ("fused", "auto", "auto"), ("folded", "coo", "exact"),
    ("twice", "bitmask", "int4"), ("if", "flat", "shared:4"), ("function", "bitmask", "int8:5"),
    ("opset9", "bitmask", "exact"), ("ir3", "dense", "half"), ("qdq", "flat", "shared:4"), ("fp64", "rows", "half"),
    ("table", "gathered", "shared:2"), ("table", "gathered", "int4"),
    *(("product", encoding, "int8-dynamic") for encoding in ENCODINGS),
    ("folded", "escape", "shared:4"), ("fused", "escape", "int8:5"), ("fused", "escape", "int4"),
]  # fmt: skip


def encode(folder: Path, name: str, encoding: str, values: str) -> None:
    """One encoded model, and its weights, which must be those that the other encodings decode to."""
    build, sparsity = BUILD[name]
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        onnx.save(build(), "dense.onnx")
        onnxprune.prune("dense.onnx", "pruned.onnx", sparsity=sparsity, include=("*",), verify=False)
        data = {"x": normal(16, 64)} if values == "int8-dynamic" else None
        onnxprune.encode("pruned.onnx", "encoded.onnx", values=values, encoding=encoding, data=data, verify=False)
        onnxprune.decode("encoded.onnx", "decoded.onnx", verify=False)
        made = {(group.encoding, group.values) for group in encoded_weights(onnxprune.load("encoded.onnx"))}
        assert encoding in ("auto", "coo") or made == {(encoding, values.split(":")[0])}, (name, encoding, values, made)
        held = arrays(onnxprune.load("decoded.onnx"))
        shutil.copyfile("encoded.onnx", folder / f"{name}-{encoding}-{values}.onnx".replace(":", ""))
    expected = folder / f"{name}-{values}.npz".replace(":", "")
    if expected.exists():
        with np.load(expected) as stored:
            assert {key: stored[key].tobytes() for key in stored} == {key: held[key][2] for key in held}, expected
    with expected.open("wb") as file:
        np.savez_compressed(file, **{key: np.frombuffer(d, t).reshape(shape) for key, (t, shape, d) in held.items()})


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    for name, encoding, values in FILES:
        encode(folder, name, encoding, values)
    onnxprune.pack(folder / "fused-dense-int8.onnx", folder / "packed.onnxz")
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):  # so that no path of a machine is written
        Path("models/deep").mkdir(parents=True)
        onnx.save(folded(), "models/deep/folded.onnx")
        onnxprune.compress_many(["models"], "batch", sparsity=0.9, values="int8", verify=False)
        shutil.copytree("batch", folder / "batch")
        np.savez("data.npz", x=normal(32, 64, seed=3))
        sensitivity.scan(
            "models/deep/folded.onnx", folder / "curves.json", data="data.npz", metric="sqnr", levels=(0.3, 0.6, 0.9),
            jobs=1,
        )  # fmt: skip


if __name__ == "__main__":
    main()
