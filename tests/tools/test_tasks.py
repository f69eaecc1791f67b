"""The tasks of tools/: lines decoded as they were written, samples that are never scored, metrics by their names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.runtime import judge as evaluation
from onnxprune.runtime.session import open_session
from tests.helpers.repository import TOOLS

LETTERS = "abcdefg"


@pytest.fixture(scope="module")
def tools() -> Any:
    """Makes the modules of tools/ importable, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def reader() -> Any:
    """A recogniser of columns: the value of a column is the class it stands for, and zero is the blank."""
    classes = np.arange(len(LETTERS) + 2, dtype=np.float32)
    constant = lambda name, value: onnx.numpy_helper.from_array(np.asarray(value), name)  # noqa: E731
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x", "lines"], ["wide"], keepdims=0),
            helper.make_node("Unsqueeze", ["wide", "last"], ["columns"]),
            helper.make_node("Sub", ["columns", "classes"], ["far"]),
            helper.make_node("Mul", ["far", "far"], ["square"]),
            helper.make_node("Neg", ["square"], ["scores"]),
        ],
        "reader",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "high", "wide"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "wide", len(classes)])],
        [constant("lines", [1, 2]), constant("last", [2]), constant("classes", classes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"character": "\n".join(LETTERS)})
    return open_session(model.SerializeToString())


def image(columns: list[int]) -> np.ndarray:
    return np.tile(np.array(columns, np.float32), (3, 48, 1))


def text(columns: list[int]) -> str:
    """Greedy decoding, the slow way."""
    found = ""
    for before, now in zip([0, *columns], columns, strict=False):
        if now and now != before:
            found += [*LETTERS, " "][now - 1]
    return found


COLUMNS = st.lists(st.integers(0, len(LETTERS) + 1), min_size=1, max_size=12)


@given(st.lists(COLUMNS, min_size=1, max_size=20))
def test_lines_of_any_widths_are_read_in_their_order(tools: Any, reader: Any, written: list[list[int]]) -> None:
    assert tools("tasks.ocr").read(reader, [image(columns) for columns in written]) == [text(c) for c in written]


@given(st.lists(COLUMNS.map(lambda c: [*c, 1]), min_size=1, max_size=20), st.integers(0, 20))
def test_lines_read_counts_exact_lines_in_percent(
    tools: Any, reader: Any, written: list[list[int]], wrong: int
) -> None:
    """The images as `--data` holds them, padded to one width."""
    padded, wrong = tools("tasks.rendering").padded, min(wrong, len(written))
    texts = ["?" if i < wrong else text(columns) for i, columns in enumerate(written)]
    data = {"x": padded([image(columns) for columns in written]), "targets": np.array(texts)}
    found = tools("tasks.ocr").lines_read(reader, data)
    assert found == pytest.approx(100 * (1 - wrong / len(written)))


def test_padding_comes_off_rendered_lines(tools: Any) -> None:
    rendering = tools("tasks.rendering")
    images = [rendering.scaled(image, 48, 480) for _, image in rendering.lines(12, 0)]
    batch = rendering.padded(images)
    assert len({image.shape for image in images}) > 1
    for image, filled in zip(images, batch, strict=True):
        np.testing.assert_array_equal(rendering.unpadded(filled), image)


def test_rendered_samples_are_the_same_however_many_and_none_is_scored(tools: Any) -> None:
    task = tools("tasks").TASKS["PP-OCRv6_rec_small"]
    few, more = task.unscored(3), task.unscored(6)
    assert few["targets"].tolist() == more["targets"][:3].tolist()
    wide = few["x"].shape[3]
    np.testing.assert_array_equal(few["x"], more["x"][:3, :, :, :wide])
    scored = {text for text, _ in tools("tasks.rendering").lines(50, 2)}
    assert not scored & set(task.unscored(50)["targets"].tolist())


def test_files_are_scored_or_for_data(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """90 files of each of 14 extensions, each of them twice under another name."""
    filetypes = tools("tasks.filetypes")
    rng = np.random.default_rng(0)
    for extension in sorted(filetypes.LABELS)[:14]:
        for number in range(90):
            content = rng.bytes(100)
            (tmp_path / f"{number}.{extension}").write_bytes(content)
            (tmp_path / f"again{number}.{extension}").write_bytes(content)
    monkeypatch.setattr(filetypes.os, "walk", lambda root: [(str(tmp_path), [], [p.name for p in tmp_path.iterdir()])])
    task = filetypes.FileTypes(Path("model.onnx"))
    data = task.unscored(10_000)
    assert len(data["bytes"]) == len(data["targets"]) == task.samples == 14 * filetypes.EACH
    assert {row.tobytes() for row in data["bytes"]}.isdisjoint(found.tobytes() for _, found in task._data)
    assert len({row.tobytes() for row in data["bytes"]}) == len(data["bytes"])


def test_a_label_fits_its_extension_and_no_other(tools: Any) -> None:
    filetypes = tools("tasks.filetypes")
    assert filetypes.fitting(["py", "h", "h", "txt"], ["python", "cpp", "python", "csv"]) == [True, True, False, False]
    with pytest.raises(ValueError, match="zip"):
        filetypes.fitting(["py"], [])


def test_the_metrics_that_tasks_name_are_there(tools: Any) -> None:
    named = [task.function for task in tools("tasks").TASKS.values() if task.function]
    assert len(named) == 2
    assert all(callable(evaluation.function(name)) for name in named)


class Eight:
    """A task with eight samples to give."""

    function = "tasks.eight:right"

    def unscored(self, count: int) -> dict[str, np.ndarray]:
        return {"image": np.zeros((min(count, 8), 2), np.float32), "targets": np.arange(min(count, 8))}


def command(tools: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    accuracy = tools("accuracy")
    monkeypatch.setattr(accuracy, "TASKS", {"eight": Eight()})
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
    return int(accuracy.main())


def test_samples_are_written_and_it_says_what_judges_them(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tools, monkeypatch, "--samples-for", "eight", str(tmp_path / "d.npz"), "--samples", "8") == 0
    with np.load(tmp_path / "d.npz") as data:
        assert {name: data[name].shape for name in data.files} == {"image": (8, 2), "targets": (8,)}
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("d.npz: 8 samples, image float32[8, 2], targets int64[8]")
    assert said[1] == "judge by --metric tasks.eight:right, with PYTHONPATH=tools"


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("eight", "9", "8 samples that are not scored, asked for 9"),
        ("nine", "8", "no task 'nine'; there are eight"),
    ],
)
def test_samples_that_are_not_there_are_one_line(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, count: str, message: str,
) -> None:  # fmt: skip
    assert command(tools, monkeypatch, "--samples-for", name, str(tmp_path / "d.npz"), "--samples", count) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {name}: ")
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.fetched
@pytest.mark.parametrize("name", ["magika", "PP-OCRv6_rec_small"])
def test_a_real_model_does_its_task_on_samples_that_are_not_scored(tools: Any, tmp_path: Path, name: str) -> None:
    """And with random targets it does not."""
    task = tools("tasks").TASKS[name]
    if not task.path.exists():
        pytest.skip(f"tools/fetch_models.py {task.path.parent.name}")
    try:
        data = task.unscored(24)
    except tools("tasks.task").Unavailable as error:
        pytest.skip(str(error))
    np.savez(tmp_path / "right.npz", **data)
    np.savez(tmp_path / "wrong.npz", **{**data, "targets": np.roll(data["targets"], 12)})
    right, wrong = (
        onnxprune.verify(task.path, task.path, data=tmp_path / f"{answers}.npz", metric=task.function).metric
        for answers in ("right", "wrong")
    )
    assert right.original == right.result >= 85
    assert wrong.result < 30
