"""Real networks through compress, decode and prune: exact counts, equal weights, equal outputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.model.discovery import find
from onnxprune.model.weight import Weight
from tests.helpers.repository import LENETS, fetched, filled, light, skip_if_it_draws

LIGHT = ("squeezenet", "resnet50")  # of the onnx package, opset 9 and IR version 3


def models() -> Iterator[object]:
    """The trained models of the repository, the light ones, and those that tools/fetch_models.py brought."""
    for name, path in LENETS.items():
        yield pytest.param((path, 0.5), id=name)
    for name in LIGHT:
        yield pytest.param((name, 0.8), id=name)
    for path, name, marks in fetched():
        yield pytest.param((path, 0.5), id=name, marks=marks)


@dataclass
class Made:
    """A model, and what the toolkit made of it."""

    source: Path
    sparsity: float
    result: onnxprune.Result
    compressed: Path
    pruned: Path
    decoded: Path


@pytest.fixture(scope="module", params=models())
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    model, sparsity = request.param
    folder = tmp_path_factory.mktemp("model")
    source = model if isinstance(model, Path) else folder / f"{model}.onnx"
    if source != model:
        onnx.save(filled(light(model)), source)
    compressed, pruned, decoded = (folder / f"{name}.onnx" for name in ("compressed", "pruned", "decoded"))
    result = onnxprune.compress(source, compressed, sparsity=sparsity, values="exact", strip=False, verify=False)
    onnxprune.prune(source, pruned, sparsity=sparsity, verify=False)
    onnxprune.decode(compressed, decoded, verify=False)
    return Made(source, sparsity, result, compressed, pruned, decoded)


def arrays(path: Path) -> dict[str, tuple[Weight, np.ndarray]]:
    model = onnxprune.load(path)
    return {weight.name: (weight, weight.array(model)) for weight in find(model)}


def test_zeros_are_counted_exactly(made: Made) -> None:
    before, after = arrays(made.source), arrays(made.decoded)
    chosen = [w for w in made.result.weights if w.requested is not None]
    assert chosen
    for fact in chosen:
        weight, array = before[fact.name]
        wanted = max(round(made.sparsity * weight.size), weight.zeros(array))
        assert fact.zeros == wanted, fact.name
        assert after[fact.name][0].zeros(after[fact.name][1]) == wanted, fact.name


def test_decoded_weights_are_the_pruned_ones(made: Made) -> None:
    decoded, pruned = arrays(made.decoded), arrays(made.pruned)
    assert decoded.keys() == pruned.keys()
    for name, (_, array) in decoded.items():
        expected = pruned[name][1]
        assert array.dtype == expected.dtype, name
        assert array.shape == expected.shape, name
        assert array.tobytes() == expected.tobytes(), name


def test_kept_weights_are_the_original_ones(made: Made) -> None:
    original, decoded = arrays(made.source), arrays(made.decoded)
    for name, (weight, array) in decoded.items():
        before = original[name][1]
        kept = array != weight.zero_value if weight.zero is not None else array != 0
        assert array[kept].tobytes() == before[kept].tobytes(), name


def test_the_file_is_smaller(made: Made) -> None:
    assert made.compressed.stat().st_size < made.source.stat().st_size


def test_the_compressed_model_computes_what_the_pruned_one_does(made: Made) -> None:
    skip_if_it_draws(onnxprune.load(made.pruned).proto)
    deviation = onnxprune.verify(made.pruned, made.compressed, samples=1)
    assert deviation.source == "synthetic", deviation.reason
    assert deviation.outputs
    for output in deviation.outputs:
        assert output["max_abs"] <= 1e-4, output


def test_the_decoded_model_is_the_pruned_one_to_the_runtime(made: Made) -> None:
    skip_if_it_draws(onnxprune.load(made.pruned).proto)
    deviation = onnxprune.verify(made.pruned, made.decoded, samples=1)
    assert deviation.outputs, deviation.reason
    assert all(output["max_abs"] == 0 for output in deviation.outputs)
