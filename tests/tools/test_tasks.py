"""The tasks of tools/: lines decoded as they were written, samples that are never scored, metrics by their names."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.model.model import Model
from onnxprune.runtime import judge as evaluation
from onnxprune.runtime.session import open_session, run
from tests.helpers.builders import mlp
from tests.helpers.repository import TOOLS
from tests.helpers.running import put

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


def test_words_read_leaves_spaces_aside(tools: Any, reader: Any) -> None:
    spaced, joined = [1, len(LETTERS) + 1, 2], [1, 2]
    data = {"x": tools("tasks.rendering").padded([image(spaced), image(joined)]), "targets": np.array(["ab", "ab"])}
    assert tools("tasks.ocr").words_read(reader, data) == 100
    assert tools("tasks.ocr").lines_read(reader, data) == 50


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
    assert named
    assert all(callable(evaluation.function(name)) for name in named)


class Eight:
    """A task with eight samples to give."""

    name = "eight"
    function = "tasks.eight:right"
    path = Path("eight.onnx")

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


def test_arguments_are_a_column_each_and_take_the_metric_of_the_task(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, given, held = tools("accuracy"), [], []

    def transform(command: str, model: Path, out: Path, arguments: str) -> None:
        given.append([command, *shlex.split(arguments)])
        if "--data" in arguments:
            with np.load(given[-1][-1]) as data:
                held.append({name: len(data[name]) for name in data.files})

    monkeypatch.setattr(accuracy, "transform", transform)
    task = Eight()
    made = accuracy.makers(["default", "data"], ["--loss 1", "--max-drop 1 --metric TASK"], 4)
    assert list(made) == [
        "--loss 1",
        "--max-drop 1 --metric TASK",
        "--data of 4 --loss 1",
        "--data of 4 --max-drop 1 --metric TASK",
    ]
    for make in made.values():
        make(task, tmp_path, "--skip '* b'")
    own = ["--skip", "* b"]
    assert given[0] == ["compress", "--no-verify", "-q", "--loss", "1", *own]
    assert given[1][3:] == ["--max-drop", "1", "--metric", "tasks.eight:right", *own]
    assert given[2][:-1] == ["compress", "-q", "--loss", "1", *own, "--data"]
    assert given[3][:-1] == ["compress", "-q", "--max-drop", "1", "--metric", "tasks.eight:right", *own, "--data"]
    assert held == [{"image": 4, "targets": 4}] * 2
    monkeypatch.setattr(Eight, "function", "")
    with pytest.raises(accuracy.Failed, match="no metric of its own"):
        made["--data of 4 --max-drop 1 --metric TASK"](task, tmp_path, "")
    accuracy.makers(["default"], ["--channels 0.2"], 4, "strip")["--channels 0.2"](task, tmp_path, "")
    assert given[-1] == ["strip", "--no-verify", "-q", "--channels", "0.2"]


def test_models_take_arguments_of_their_own(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = tools("accuracy")
    tasks = {name: SimpleNamespace(name=name) for name in ("a-1", "a-2", "b")}
    monkeypatch.setattr(accuracy, "TASKS", tasks)
    asked = {
        name: [(t.name, own) for t, own in accuracy.chosen(name)] for name in (("",), ("b=--set 'w=0.5'", "a=--x 1"))
    }
    assert asked == {
        ("",): [("a-1", ""), ("a-2", ""), ("b", "")],
        ("b=--set 'w=0.5'", "a=--x 1"): [("a-1", "--x 1"), ("a-2", "--x 1"), ("b", "--set 'w=0.5'")],
    }


def test_a_result_is_timed_beside_its_original_on_a_sample(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, timed = tools("accuracy"), []

    def outputs_of(model: Model) -> int:
        return model.proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value

    def times(feeds: dict[str, np.ndarray]) -> Any:
        timed.append({name: array.shape for name, array in feeds.items()})
        return lambda before, after, seconds: (2.0, outputs_of(after) / outputs_of(before))

    monkeypatch.setattr(accuracy, "ProcessorTimes", times)
    task = Eight()
    monkeypatch.setattr(Eight, "path", put(tmp_path / "two.onnx", mlp((2, 4))))
    monkeypatch.setattr(Eight, "unscored", lambda self, count: {"x": np.zeros((count, 2), np.float32)})
    assert accuracy.latency(task, put(tmp_path / "one.onnx", mlp((2, 1)))) == {"original_ms": 2.0, "latency": 0.25}
    assert timed == [{"x": (1, 2)}]


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


# Captchas and phonemes -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=12))
def test_runs_are_one_and_blanks_are_none(tools: Any, best: list[int]) -> None:
    alphabet = ["", "a", "b", "c"]
    slow = "".join(alphabet[now] for before, now in zip([None, *best], best, strict=False) if now != before)
    assert tools("tasks.decoding").greedy(np.array(best, int), alphabet) == slow


def test_captchas_are_the_same_however_many_and_none_is_scored(tools: Any) -> None:
    captcha = tools("tasks.captcha")
    few, more = captcha.strings(3, 8), captcha.strings(6, 8)
    assert [text for text, _ in few] == [text for text, _ in more[:3]]
    for (text, image), (_, again) in zip(few, more, strict=False):
        np.testing.assert_array_equal(image, again)
        assert set(text) <= set(captcha.LETTERS)
        assert image.min() < 100 < 180 < image.max()
    assert captcha.scaled(few[0][1]).shape == (1, 1, 64, 240)
    assert not {text for text, _ in captcha.strings(150, 8)} & {text for text, _ in captcha.strings(150, 9)}


def test_letters_of_captchas_are_told_apart_without_capitals(tools: Any) -> None:
    letters = tools("tasks.captcha").LETTERS
    assert not set("0oO1lIi2zZ5sS9gqvVuU") & set(letters)


def test_what_source_assigns_is_read_and_not_run(tools: Any, tmp_path: Path) -> None:
    source = tmp_path / "charsets.py"
    source.write_text("raise SystemExit\nOLD = ['', 'x']\nBETA = ['',\n '\u6380',\n 'a']\n", encoding="utf-8")
    assert tools("tasks.task").literal(source, "BETA") == ["", "\u6380", "a"]
    with pytest.raises(ValueError, match=r"charsets.py assigns no NEW"):
        tools("tasks.task").literal(source, "NEW")


def test_a_character_is_seen_among_its_neighbours(tools: Any) -> None:
    segmentation = tools("tasks.segmentation")
    numbers = {letter: i for i, letter in enumerate(" abc")}
    seen = segmentation.features("abc", numbers, numbers)["input_1"]
    assert seen[1].tolist() == [3, *[0] * 9, 1, *[0] * 9, 2]
    ((text, begins),) = segmentation.joined(["ab", "abc"], 1, 0)
    assert "".join("|" * int(begin) + letter for letter, begin in zip(text, begins, strict=True)).count("|ab") == 8


def test_rows_of_a_detector_are_boxes_that_do_not_overlap(tools: Any) -> None:
    targets = tools("tasks.targets")
    rows = np.zeros((52 * 52 + 26 * 26 + 13 * 13, 6), np.float32)
    rows[52 * 3 + 4] = [0.5, 0.5, np.log(4), np.log(2), 1, 0.9]  # at (4, 3) of the grid of 8
    rows[52 * 3 + 5] = [-0.5, 0.5, np.log(4), np.log(2), 1, 0.8]  # the same box again
    rows[-1] = [0, 0, 0, 0, 1, 0.5]  # at (12, 12) of the grid of 32
    assert np.allclose(targets.boxes_of(rows), [(20, 20, 52, 36), (368, 368, 400, 400)])


def test_boxes_are_matched_once(tools: Any) -> None:
    boxes = tools("tasks.boxes")
    drawn = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]
    outcome = boxes.matched([(drawn, [drawn[0], drawn[0]]), (drawn, drawn)])
    assert outcome.predictions == [True, False, True, True, 1, 0]
    assert outcome.accuracy == pytest.approx(2 * 3 / (3 + 1 + 4))


def test_phonemes_are_fed_with_pads_between(tools: Any) -> None:
    numbers = {"_": [0], "^": [1], "$": [2], "a": [5], "b": [6]}
    assert tools("tasks.wake").identities("ab", numbers).tolist() == [[1, 0, 5, 0, 6, 0, 2]]


def test_windows_of_a_spectrogram_step_by_eight_frames(tools: Any) -> None:
    spectrogram = np.arange(100 * 32, dtype=np.float32).reshape(100, 32)
    found = tools("tasks.wake").windows(spectrogram)
    assert found.shape == (4, 76, 32, 1)
    np.testing.assert_array_equal(found[3, :, :, 0], spectrogram[24:100])


def test_keys_sound_where_tones_do(tools: Any) -> None:
    notes = tools("tasks.notes")
    sounds, keys = notes.windows(2, 0)
    loud = np.abs(sounds[:, : notes.FRAMES * notes.HOP // 2, 0]).reshape(2, -1, notes.HOP).max(2) > 0.05
    assert (keys.any(2)[:, : loud.shape[1]] | ~loud).mean() > 0.97
    assert keys.any((1, 2)).all()


def test_a_word_has_each_of_its_pronunciations(tools: Any) -> None:
    lines = "read R EH1 D\nread(2) R IY1 D\nread's R IY1 D Z\naalen AA1 L AH0 N # name\n'tis T IH1 Z\n"
    found = tools("tasks.phonemes").pronunciations(lines)
    assert found == {"read": {"R EH1 D", "R IY1 D"}, "aalen": {"AA1 L AH0 N"}}


def test_words_are_spelt_to_their_ends(tools: Any) -> None:
    fed = tools("tasks.phonemes").spelt(["ab", "z"])
    assert fed["graphemes"].tolist() == [[3, 4, 2], [28, 2, 0]]
    assert fed["lengths"].tolist() == [3, 2]


def test_phonemes_are_said_up_to_the_end(tools: Any) -> None:
    phonemes = tools("tasks.phonemes")
    b, end = phonemes.PHONEMES.index("B"), phonemes.END
    assert phonemes.texts(np.array([[b, end, b], [b, b, b], [end, b, end]])) == ["B", "B B B", ""]


def recurrent(rng: np.random.Generator, letters: int, said: int, hidden: int) -> dict[str, np.ndarray]:
    """The arrays of a small g2p network, by g2p-en's names."""
    arrays = {"enc_emb": (letters, 5), "dec_emb": (said, 5), "fc_w": (said, hidden), "fc_b": (said,)}
    for part in ("enc", "dec"):
        arrays |= {f"{part}_w_ih": (3 * hidden, 5), f"{part}_w_hh": (3 * hidden, hidden)}
        arrays |= {f"{part}_b_ih": (3 * hidden,), f"{part}_b_hh": (3 * hidden,)}
    return {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in arrays.items()}


def step(arrays: dict[str, np.ndarray], part: str, x: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of torch's GRU, as g2p-en writes it in numpy."""
    ours = x @ arrays[f"{part}_w_ih"].T + arrays[f"{part}_b_ih"]
    before = state @ arrays[f"{part}_w_hh"].T + arrays[f"{part}_b_hh"]
    (r, z, n), (hr, hz, hn) = np.split(ours, 3), np.split(before, 3)
    reset, update = 1 / (1 + np.exp(-r - hr)), 1 / (1 + np.exp(-z - hz))
    return (1 - update) * np.tanh(n + reset * hn) + update * state


def test_networks_made_of_arrays_do_what_the_arrays_say(tools: Any) -> None:
    derived = tools("derived_models")
    arrays = recurrent(np.random.default_rng(0), 7, 6, 4)
    encoder, decoder = derived.encoder(arrays), derived.decoder(arrays)
    assert encoder.SerializeToString() == derived.encoder(arrays).SerializeToString()
    words, lengths = np.array([[1, 2, 3], [4, 0, 0]]), np.array([3, 1], np.int32)
    said = run(open_session(encoder.SerializeToString()), {"graphemes": words, "lengths": lengths})
    states = []
    for word, length in zip(words, lengths, strict=True):
        state = np.zeros(4)
        for letter in word[:length]:
            state = step(arrays, "enc", arrays["enc_emb"][letter], state)
        states.append(state)
    np.testing.assert_allclose(said["state"], states, atol=1e-6)
    out = run(open_session(decoder.SerializeToString()), {"phoneme": np.array([5, 2]), "state": said["state"]})
    after = [step(arrays, "dec", arrays["dec_emb"][i], s) for i, s in zip((5, 2), states, strict=True)]
    np.testing.assert_allclose(out["next_state"], after, atol=1e-6)
    np.testing.assert_allclose(out["logits"], after @ arrays["fc_w"].T + arrays["fc_b"], atol=1e-5)
