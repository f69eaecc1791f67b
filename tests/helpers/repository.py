"""What lies in the repository, by name: whatever else is in models/ is somebody's output."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import onnx
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS, TOOLS, DATA = ROOT / "models", ROOT / "tools", ROOT / "tests" / "data"
LENETS = {name: MODELS / f"{name}.onnx" for name in ("lenet-300-100", "lenet-5")}
LENETS_PRUNED = {name: MODELS / f"{name}-pruned.onnx" for name in LENETS}
DIGITS = MODELS / "mnist-sample.npz"


def tool(name: str) -> ModuleType:
    """A module of tools/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        return importlib.import_module(name)


def fetched() -> list[tuple[Path, str, list[pytest.MarkDecorator]]]:
    """(model, id, marks) of those that tools/fetch_models brings; one that is not there is skipped."""
    return [
        (
            path,
            f"{path.parent.name}-{path.stem}",
            [pytest.mark.fetched, pytest.mark.skipif(not path.is_file(), reason="tools/fetch_models brings it")],
        )
        for path in tool("known_models").fetched()
    ]


def skip_if_it_draws(proto: onnx.ModelProto) -> None:
    """Skip a model that draws random numbers: two runs of one model differ too."""
    if any("Random" in node.op_type for node in proto.graph.node):
        pytest.skip("it draws random numbers")


def light(name: str) -> onnx.ModelProto:
    """A network of the onnx package; every weight is a ConstantOfShape node."""
    return onnx.load(tool("fill_light").light(name))


def filled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A light network with random weights."""
    return tool("fill_light").fill(proto)
