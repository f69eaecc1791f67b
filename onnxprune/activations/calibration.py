"""The ranges of activations on samples, by ONNX Runtime's own calibrator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxprune.core.dtypes import Array
from onnxprune.errors import DataError, RuntimeFailure
from onnxprune.model.model import Model
from onnxprune.runtime import samples as sample_files
from onnxprune.runtime.session import Feeds, as_written, open_session


@dataclass(frozen=True)
class Grid:
    """How an activation is rounded: to value / scale + zero, in uint8; both are scalars."""

    scale: Array
    zero: Array


class _Reader:
    """Samples as the calibrator asks for them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next ones."""
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def grids(model: Model, values: Iterable[str], source: Path, samples: int, half: int | None = None) -> dict[str, Grid]:
    """What float values of the main graph are rounded to: from the least that they take to the largest, and 0.

    Args:
        model: the model.
        values: names of tensors of float32.
        source: inputs, see `samples.load`.
        samples: at most so many of them.
        half: 0 or 1 for these of a half only.

    Raises:
        DataError: the samples do not fit the model, or a value is not finite on them.
        RuntimeFailure: the model does not run.
    """
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    found = {}
    for name, (least, largest) in _ranges(model, list(dict.fromkeys(values)), source, samples, half).items():
        if not (np.isfinite(least) and np.isfinite(largest)):
            raise DataError(f"'{name}' is not finite on the samples in {source}")
        zero, scale = compute_scale_zp(least, largest, np.array(0, np.uint8), np.array(255, np.uint8))
        found[name] = Grid(scale.astype(np.float32).reshape(()), zero.astype(np.uint8).reshape(()))
    return found


def _ranges(
    model: Model, values: list[str], source: Path, samples: int, half: int | None
) -> dict[str, tuple[Any, Any]]:
    """The least and the largest number of each value: float32."""
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        with model.edited() as proto:
            typed = {info.name for info in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)}
            for name in values:
                if name not in typed:  # the calibrator wants to know that it is float
                    proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            model.write(path)
        found, inputs = sample_files.load(source, open_session(path, options=as_written()), samples, half)
        pieces = found.pieces(inputs, 1)
        try:
            calibrator = MinMaxCalibrater(path, augmented_model_path=str(Path(folder) / "augmented.onnx"))
            calibrator.select_tensors_to_calibrate = lambda proto: (values, {})  # no others
            calibrator.augment_graph()
            calibrator.infer_session = open_session(calibrator.augmented_model_path, options=as_written())
            calibrator.collect_data(_Reader(pieces))
        except Exception as error:  # onnx's and onnxruntime's exceptions share no base class
            said = " ".join(str(error).split())[:300]
            raise RuntimeFailure(f"the activations cannot be calibrated: {said}") from error
        return {name: found.range_value for name, found in calibrator.compute_data().items()}
