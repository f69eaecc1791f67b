"""A graph tool on a file, in an environment that has it.

python tool_runner.py TOOL SOURCE MADE SAID

SAID gets why it failed, or "".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def onnxsim(source: str, made: str) -> None:
    import onnx
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], made)


def onnxslim(source: str, made: str, **options: Any) -> None:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(source, **options), made)


def onnxslim_threshold(source: str, made: str) -> None:
    onnxslim(source, made, size_threshold=65536)


def onnxoptimizer(source: str, made: str) -> None:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), made)


def version_converter(source: str, made: str) -> None:
    import onnx
    from onnx import version_converter

    onnx.save(version_converter.convert_version(onnx.load(source), 23), made)


def converter_float16(source: str, made: str) -> None:
    import onnx
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source)), made)


def transformers_float16(source: str, made: str) -> None:
    import onnx
    from onnxruntime.transformers import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source)), made)


def quantize_dynamic(source: str, made: str) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(source, made)


def quant_pre_process(source: str, made: str) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process as process

    process(source, made)


def optimised_basic(source: str, made: str) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = made
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def compose_prefix(source: str, made: str) -> None:
    import onnx
    from onnx import compose

    onnx.save(compose.add_prefix(onnx.load(source), "a/"), made)


def inliner(source: str, made: str) -> None:
    import onnx
    from onnx import inliner

    onnx.save(inliner.inline_local_functions(onnx.load(source)), made)


# name: its package, and what runs it
TOOLS: dict[str, tuple[str, Callable[[str, str], None]]] = {
    "onnxsim": ("onnxsim", onnxsim),
    "onnxslim": ("onnxslim", onnxslim),
    "onnxslim, size_threshold=65536": ("onnxslim", onnxslim_threshold),
    "onnxoptimizer": ("onnxoptimizer", onnxoptimizer),
    "onnx version_converter to 23": ("onnx", version_converter),
    "onnx compose.add_prefix": ("onnx", compose_prefix),
    "onnx inliner": ("onnx", inliner),
    "onnxconverter_common float16": ("onnxconverter-common", converter_float16),
    "onnxruntime.transformers float16": ("onnxruntime", transformers_float16),
    "onnxruntime quantize_dynamic": ("onnxruntime", quantize_dynamic),
    "onnxruntime quant_pre_process": ("onnxruntime", quant_pre_process),
    "onnxruntime optimized_model_filepath, basic": ("onnxruntime", optimised_basic),
}


def main(tool: str, source: str, made: str, said: str) -> None:
    failed = ""
    try:
        TOOLS[tool][1](source, made)
    except Exception as error:  # whatever a tool says to a file is the result
        failed = " ".join(f"{type(error).__name__}: {error}".split())[:200] or type(error).__name__
    Path(said).write_text(json.dumps(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
