"""Models that no package holds as such: a model at another opset, and networks whose weights come as numpy arrays.

`python tools/fetch_models.py` makes them beside the files they are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

OPSET, IR = 13, 8


def raised(folder: Path) -> onnx.ModelProto:
    """PP-OCRv4's recogniser, which comes at opset 9, at opset 13."""
    return version_converter.convert_version(onnx.load(folder / "PP-OCRv4_rec.onnx"), OPSET)


def g2p_encoder(folder: Path) -> onnx.ModelProto:
    """g2p-en's encoder: `graphemes` int64 [word, place], `lengths` int32 [word] to `state` float32 [word, hidden]."""
    with np.load(folder / "checkpoint20.npz") as arrays:
        return encoder(dict(arrays))


def g2p_decoder(folder: Path) -> onnx.ModelProto:
    """A step of g2p-en's decoder: `phoneme` int64 [word], `state` to `logits` float32 [word, phoneme], `next_state`."""
    with np.load(folder / "checkpoint20.npz") as arrays:
        return decoder(dict(arrays))


def encoder(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """An embedding and a GRU over whole words, its last state the output."""
    nodes = [
        helper.make_node("Transpose", ["graphemes"], ["places"], perm=[1, 0]),
        helper.make_node("Gather", ["enc_emb", "places"], ["embedded"]),
        _gru("enc", ["embedded", "lengths", ""], arrays),
        helper.make_node("Squeeze", ["enc_last", "first"], ["state"]),
    ]
    inputs = [("graphemes", TensorProto.INT64, ["word", "place"]), ("lengths", TensorProto.INT32, ["word"])]
    weights = {"enc_emb": arrays["enc_emb"], **_gates("enc", arrays)}
    return _model("g2p_encoder", nodes, inputs, [("state", ["word", _hidden("enc", arrays)])], weights)


def decoder(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """An embedding, one step of a GRU, and a linear layer."""
    hidden = _hidden("dec", arrays)
    nodes = [
        helper.make_node("Gather", ["dec_emb", "phoneme"], ["embedded"]),
        helper.make_node("Unsqueeze", ["embedded", "first"], ["step"]),
        helper.make_node("Unsqueeze", ["state", "first"], ["before"]),
        _gru("dec", ["step", "", "before"], arrays),
        helper.make_node("Squeeze", ["dec_last", "first"], ["next_state"]),
        helper.make_node("Gemm", ["next_state", "fc_w", "fc_b"], ["logits"], transB=1),
    ]
    inputs = [("phoneme", TensorProto.INT64, ["word"]), ("state", TensorProto.FLOAT, ["word", hidden])]
    outputs = [("logits", ["word", len(arrays["fc_b"])]), ("next_state", ["word", hidden])]
    weights = {name: arrays[name] for name in ("dec_emb", "fc_w", "fc_b")} | _gates("dec", arrays)
    return _model("g2p_decoder", nodes, inputs, outputs, weights)


def _hidden(part: str, arrays: dict[str, np.ndarray]) -> int:
    return int(arrays[f"{part}_w_hh"].shape[1])


def _gru(part: str, ends: list[str], arrays: dict[str, np.ndarray]) -> onnx.NodeProto:
    """The GRU of a part, on its input, lengths and first state; the recurrent bias stands inside the reset gate."""
    x, lengths, first = ends
    inputs = [x, f"{part}_w", f"{part}_r", f"{part}_b", lengths, first]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["", f"{part}_last"]
    return helper.make_node("GRU", inputs, outputs, hidden_size=_hidden(part, arrays), linear_before_reset=1)


def _gates(part: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of a GRU in ONNX's order (update, reset, new) from torch's (reset, update, new)."""

    def ordered(name: str) -> np.ndarray:
        reset, update, new = np.split(arrays[f"{part}_{name}"], 3)
        return np.concatenate([update, reset, new])

    biases = np.concatenate([ordered("b_ih"), ordered("b_hh")])
    return {f"{part}_w": ordered("w_ih")[None], f"{part}_r": ordered("w_hh")[None], f"{part}_b": biases[None]}


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[str | int]]],
    outputs: list[tuple[str, list[str | int]]],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end, shape in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array, np.float32), at) for at, array in weights.items()]
        + [numpy_helper.from_array(np.zeros(1, np.int64), "first")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model, full_check=True)
    return model


# By the manifest's entry, then by file: what makes it of the entry's folder.
DERIVED: dict[str, dict[str, Callable[[Path], onnx.ModelProto]]] = {
    "ocr-models": {"PP-OCRv4_rec_opset13.onnx": raised},
    "g2p-en": {"g2p_encoder.onnx": g2p_encoder, "g2p_decoder.onnx": g2p_decoder},
}
