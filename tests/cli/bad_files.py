"""Files that are no models."""

from __future__ import annotations

import io

import numpy as np
import onnx


def bad_files() -> dict[str, bytes]:
    rng, npz = np.random.default_rng(0), io.BytesIO()
    np.savez(npz, x=np.zeros(3))
    return {
        "empty": b"", "random": rng.bytes(5000), "zeros": bytes(5000), "json": b'{"a": 1}', "text": b"hello\n" * 100,
        "png": b"\x89PNG\r\n\x1a\n" + rng.bytes(2000), "npz": npz.getvalue(), "newline": b"\n",
        "no opset": onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(),
    }  # fmt: skip
