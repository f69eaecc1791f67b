"""What inputs are taken for, and what values they get; ONNX Runtime runs each model on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnxprune
from onnxprune.model.model import Model
from onnxprune.runtime.input_kinds import SAMPLE_RATE, Features, Image, Tokens, Waveform
from onnxprune.runtime.input_recognition import recognise
from onnxprune.runtime.session import Input, inputs_of, open_session, run
from onnxprune.runtime.synthetic_inputs import synthesise
from tests.helpers.arrays import samples
from tests.helpers.builders import info, model, node
from tests.helpers.running import put

I64, I32, U8, F16 = TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.FLOAT16
Y = [info("y", None)]


def made(tmp_path, proto, count=2):
    """Synthesised inputs that run, the same ones twice."""
    path = put(tmp_path / "m.onnx", proto)
    session = open_session(path)
    found, again = (synthesise(Model.load(path), session, count) for _ in range(2))
    assert found.kinds == again.kinds
    for one, other in zip(found.feeds, again.feeds, strict=True):
        assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in one.items()} == {
            name: (a.dtype, a.shape, a.tobytes()) for name, a in other.items()
        }
        assert {name: a.dtype for name, a in one.items()} == {i.name: i.dtype for i in inputs_of(session)}
        run(session, one)
    return found


def vision(shape, before=(), channels=3, weights=None, element=TensorProto.FLOAT, **kw):
    """A convolution behind other nodes, the last of which writes `p`; without any it reads `x`."""
    nodes = [*before, node("Conv", ["p" if before else "x", "w"], ["y"])]
    return model(nodes, [info("x", shape, element)], Y, {"w": samples(4, channels, 3, 3), **(weights or {})}, **kw)


def scalar(value):
    return np.array(value, np.float32)


def divided():
    return vision([1, 3, 32, 32], [node("Div", ["x", "c"], ["p"])], weights={"c": scalar(255)})


def multiplied():
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Mul", ["c", "t"], ["p"])]
    return vision([1, 24, 32, 3], nodes, weights={"c": scalar(1 / 255)})


def centred():
    means = np.array([123.7, 116.3, 103.5], np.float32).reshape(3, 1, 1)
    return vision([1, 3, 32, 32], [node("Sub", ["x", "c"], ["p"])], weights={"c": means})


def standardised():
    nodes = [node("Sub", ["x", "m"], ["c"]), node("Div", ["c", "s"], ["p"])]
    return vision([1, 3, 32, 32], nodes, weights={"m": scalar(0.45), "s": scalar(0.22)})


def rows_of_bytes():
    nodes = [node("Cast", ["x"], ["f"], to=1), node("Transpose", ["f"], ["p"], perm=[0, 3, 1, 2])]
    return vision(["N", "h", "w", 1], nodes, channels=1, element=U8)


def batch_normed():
    weights = {"s": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "m": np.full(3, 110, np.float32)}
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "s"], ["p"])]
    return vision([1, 3, 32, 32], nodes, weights=weights)


def quantised():
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["p"])]
    return vision([1, 3, 32, 32], nodes, weights={"s": scalar(0.01), "z": np.array(100, np.uint8)})


def described():
    proto = vision([1, 3, 32, 32])
    helper.set_model_props(proto, {"Image.NominalPixelRange": "Normalized_1_1"})
    return proto


def halves():
    return vision([1, 3, 32, 32], [node("Cast", ["x"], ["p"], to=1)], element=F16)


IMAGES = [
    (lambda: vision(["N", 3, "h", "w"]), "images of 3 channels, normalised", (-2, 2)),
    (lambda: vision(["N", "c", "h", "w"]), "images of 3 channels, normalised", (-2, 2)),
    (halves, "images of 3 channels, normalised", (-2, 2)),
    (lambda: vision([1, 1, 28, 28], channels=1), "images of 1 channel, 0 to 1", (0, 1)),
    (lambda: vision([1, 1, 64, "w"], channels=1), "images of 1 channel, 0 to 1", (0, 1)),
    (divided, "images of 3 channels, 0 to 255", (0, 255)),
    (multiplied, "images of 3 channels, 0 to 255", (0, 255)),
    (centred, "images of 3 channels, 0 to 255", (0, 255)),
    (batch_normed, "images of 3 channels, 0 to 255", (0, 255)),
    (standardised, "images of 3 channels, 0 to 1", (0, 1)),
    (rows_of_bytes, "images of 1 channel, 0 to 255", (0, 255)),
    (quantised, "images of 3 channels, -1 to 1.55", (-1, 1.55)),
    (described, "images of 3 channels, -1 to 1", (-1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("build", "phrase", "ends"), IMAGES)
def test_images(tmp_path, build, phrase, ends):
    found = made(tmp_path, build())
    assert found.kinds == {"x": phrase}
    for feed in found.feeds:
        picture = feed["x"].astype(float)
        assert (picture.min(), picture.max()) == pytest.approx(ends, abs=1e-3)
    assert not np.array_equal(found.feeds[0]["x"], found.feeds[1]["x"])


def test_images_are_smooth_and_their_channels_alike(tmp_path):
    picture = made(tmp_path, vision([1, 3, 64, 64])).feeds[0]["x"][0].astype(float)
    assert np.abs(np.diff(picture, axis=-1)).mean() < 0.25 * picture.std()
    assert np.corrcoef(picture[0].ravel(), picture[1].ravel())[0, 1] > 0.5


def identity(name, shape, element=TensorProto.FLOAT):
    return model([node("Identity", [name], ["y"])], [info(name, shape, element)], [info("y", None, element)])


@pytest.mark.parametrize(
    ("name", "shape", "element"),
    [
        ("x", ["N", 8], 1), ("x", [1, 5, 32, 32], 1), ("x", [1, 3, 4, 4], 1), ("x", [1, 1, 32, 32], 1),
        ("features", ["N", 12], 1), ("x", ["N", 16, 96], 1), ("x", [3], I64), ("steps", [1, 7], I32),
        ("rate", [1], 1), ("encoder_hidden_states", [1, 9, 8], 1), ("state", [1, 9], 1), ("length_scale", [1], 1),
        ("audio", [1, 3], 1), ("max_length", [1], I64),
    ],
)  # fmt: skip
def test_what_is_not_recognised_is_random_numbers(tmp_path, name, shape, element):
    assert made(tmp_path, identity(name, shape, element)).kinds == {name: "random numbers"}


FRAMES = [
    ("mel", [1, 80, "T"], 2),
    ("x", ["N", "T", 80], 1),
    ("x", ["N", 1, "T", 64], 2),
    ("input_features", [1, 30, 12], 1),
]


@pytest.mark.parametrize(("name", "shape", "time"), FRAMES)
def test_feature_frames_are_smooth_along_time(tmp_path, name, shape, time):
    found = made(tmp_path, identity(name, shape))
    assert found.kinds == {name: "feature frames"}
    frames = found.feeds[0][name].astype(float)
    assert (frames.mean(), frames.std()) == pytest.approx((0, 1), abs=1e-3)
    assert np.abs(np.diff(frames, axis=time)).mean() < 0.5


def filtered():
    nodes = [node("Unsqueeze", ["x", "axes"], ["u"]), node("Conv", ["u", "w"], ["y"], strides=[160])]
    return model(nodes, [info("x", ["N", "T"])], Y, {"axes": np.array([1]), "w": samples(4, 1, 400)})


def transformed():
    nodes = [node("STFT", ["x", "step", "", "size"], ["y"])]
    return model(nodes, [info("x", [1, 2000])], Y, {"step": np.array(100), "size": np.array(200)})


@pytest.mark.parametrize(
    ("build", "name", "shape"),
    [
        (filtered, "x", (1, SAMPLE_RATE)), (transformed, "x", (1, 2000)),
        (lambda: identity("audio", ["T"]), "audio", (SAMPLE_RATE,)),
        (lambda: identity("wav", ["N", 1, "T"]), "wav", (1, 1, SAMPLE_RATE)),
        (lambda: identity("x", [1, 6000, 1]), "x", (1, 6000, 1)),
    ],
)  # fmt: skip
def test_waveforms(tmp_path, build, name, shape):
    found = made(tmp_path, build())
    sound = found.feeds[0][name]
    assert (found.kinds, sound.shape) == ({name: "waveforms"}, shape)
    assert 0.3 < np.abs(sound).max() < 0.6


def test_a_sampling_rate_and_a_state_beside_a_waveform(tmp_path):
    nodes = [
        node("Cast", ["sr"], ["rate"], to=1), node("Div", ["input", "rate"], ["scaled"]),
        node("ReduceMean", ["state"], ["mean"], keepdims=0), node("Add", ["scaled", "mean"], ["y"]),
        node("Identity", ["state"], ["state_out"]),
    ]  # fmt: skip
    inputs = [info("input", ["N", "T"]), info("sr", [], I64), info("state", [2, "N", 8])]
    found = made(tmp_path, model(nodes, inputs, [*Y, info("state_out", None)]))
    assert found.kinds == {"input": "waveforms", "sr": "sampling rates", "state": "states of 0"}
    feed = found.feeds[0]
    assert (feed["input"].shape, feed["sr"], feed["state"].any()) == ((1, 512), SAMPLE_RATE, False)


def test_the_rate_that_the_model_knows(tmp_path):
    nodes = [node("Equal", ["sr", "eight"], ["e"]), node("Cast", ["e"], ["y"], to=1)]
    found = made(tmp_path, model(nodes, [info("sr", [1], I64)], Y, {"eight": np.array([8000])}))
    assert (found.kinds, found.feeds[0]["sr"].tolist()) == ({"sr": "sampling rates"}, [8000])


def test_a_text_encoder(tmp_path):
    nodes = [
        node("Gather", ["words", "input_ids"], ["a"]), node("Gather", ["types", "token_type_ids"], ["b"]),
        node("Add", ["a", "b"], ["c"]), node("Cast", ["attention_mask"], ["m"], to=1),
        node("Unsqueeze", ["m", "last"], ["u"]), node("Mul", ["c", "u"], ["y"]),
    ]  # fmt: skip
    inputs = [info(name, ["batch", "seq"], I64) for name in ("input_ids", "token_type_ids", "attention_mask")]
    weights = {"words": samples(1000, 4), "types": samples(2, 4), "last": np.array([-1])}
    found = made(tmp_path, model(nodes, inputs, Y, weights))
    assert found.kinds == {
        "input_ids": "token ids below 1,000", "token_type_ids": "token types of 0", "attention_mask": "masks of 1"
    }  # fmt: skip
    feed = found.feeds[0]
    assert feed["input_ids"].max() > 500
    assert not feed["token_type_ids"].any()
    assert (feed["attention_mask"] == 1).all()


def one_hot():
    nodes = [
        node("Unsqueeze", ["x", "last"], ["u"]),
        node("Equal", ["u", "all"], ["e"]),
        node("Cast", ["e"], ["y"], to=1),
    ]
    return model(nodes, [info("x", [1, 9], I32)], Y, {"last": np.array([2]), "all": np.arange(40, dtype=np.int32)})


def floats_as_ids():
    nodes = [node("Cast", ["x"], ["i"], to=I32), node("Gather", ["t", "i"], ["y"])]
    return model(nodes, [info("x", [1, 9])], Y, {"t": samples(40, 4)})


def two_tables():
    """Rows of the input index tables of different sizes."""
    nodes = [
        node("Gather", ["x", "one"], ["a"], axis=1), node("Gather", ["x", "two"], ["b"], axis=1),
        node("Gather", ["t", "a"], ["c"]), node("Gather", ["s", "b"], ["d"]), node("Add", ["c", "d"], ["y"]),
    ]  # fmt: skip
    weights = {"one": np.array(0), "two": np.array(1), "t": samples(90, 4), "s": samples(40, 4)}
    return model(nodes, [info("x", [1, 2, "n"], I64)], Y, weights)


def ids_from_the_end():
    """Negative ones count from the end: a choice that exporters of TensorFlow write as products with conditions."""
    nodes = [
        node("Less", ["x", "zero"], ["l"]), node("Not", ["l"], ["n"]), node("Cast", ["l"], ["a"], to=I32),
        node("Cast", ["n"], ["b"], to=I32), node("Add", ["x", "rows"], ["end"]), node("Mul", ["a", "end"], ["c"]),
        node("Mul", ["x", "b"], ["d"]), node("Add", ["c", "d"], ["i"]), node("Gather", ["t", "i"], ["y"]),
    ]  # fmt: skip
    held = {"zero": np.int32(0), "rows": np.int32(40), "t": samples(40, 4)}
    return model(nodes, [info("x", [1, 9], I32)], Y, held)


@pytest.mark.parametrize("build", [one_hot, floats_as_ids, two_tables, ids_from_the_end])
def test_token_ids(tmp_path, build):
    found = made(tmp_path, build())
    assert found.kinds == {"x": "token ids below 40"}
    assert 20 < found.feeds[0]["x"].max() < 40


@pytest.mark.parametrize("name", ["x_lens", "lengths"])
def test_lengths_count_the_free_axis(tmp_path, name):
    nodes = [
        node("Cast", [name], ["f"], to=1),
        node("ReduceMean", ["x"], ["m"], keepdims=0),
        node("Add", ["f", "m"], ["y"]),
    ]
    found = made(tmp_path, model(nodes, [info(name, ["N"], I64), info("x", ["N", 80, "T"])], Y))
    assert found.kinds == {name: "lengths", "x": "feature frames"}
    assert found.feeds[0][name].tolist() == [found.feeds[0]["x"].shape[2]]


@pytest.mark.parametrize(
    ("name", "shape", "output", "returned", "state"),
    [
        ("h", [1, 1, 8], "hn", [1, 1, 8], True), ("h_in", [1, "N", 8], "new_h", None, True),
        ("decoder_h", [1, 8], "h_out", [1, 8], True), ("h_positions", ["N"], "h_logits", ["N"], False),
        ("h", [1, 1, 8], "h_scores", [1], False), ("cell", [1, 8], "c", [8, 1, 8], False),
    ],
)  # fmt: skip
def test_a_state_comes_back_under_its_name_with_its_axes(name, shape, output, returned, state):
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", [name], [output])]
    proto = model(nodes, [info("x", ["N", 5]), info(name, shape)], [*Y, info(output, returned)])
    inputs = [Input("x", ("N", 5), np.float32, ""), Input(name, tuple(shape), np.float32, "")]
    kinds = recognise(Model.of_bytes(proto.SerializeToString()), inputs)
    assert (kinds[name].phrase == "states of 0") == state


def test_the_lengths_and_the_state_of_a_recurrence(tmp_path):
    nodes = [node("GRU", ["x", "w", "r", "", "n", "s"], ["y"], hidden_size=4)]
    inputs = [info("x", ["time", 1, 3]), info("n", [1], I32), info("s", [1, 1, 4])]
    found = made(tmp_path, model(nodes, inputs, Y, {"w": samples(1, 12, 3), "r": samples(1, 12, 4)}))
    assert (found.kinds["n"], found.kinds["s"]) == ("lengths", "states of 0")
    assert not found.feeds[0]["s"].any()


def test_a_guess_that_does_not_run_gives_way_to_random_numbers(tmp_path):
    """The least entry, rounded to 0, plus 5 is a row of a table with 5 of them: only numbers below -1 do."""
    nodes = [
        node("ReduceMin", ["image"], ["least"], keepdims=0), node("Cast", ["least"], ["whole"], to=I64),
        node("Add", ["whole", "five"], ["row"]), node("Gather", ["t", "row"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, [info("image", [1, 1, 16, 16])], Y, {"five": np.array(5), "t": samples(5, 4)})
    path = put(tmp_path / "m.onnx", proto)
    (kind,) = recognise(Model.load(path), inputs_of(open_session(path))).values()
    assert isinstance(kind, Image)
    assert made(tmp_path, proto).kinds == {"image": "random numbers"}


def test_a_guess_on_which_no_output_says_anything_gives_way(tmp_path):
    nodes = [node("Neg", ["x"], ["n"]), node("Relu", ["n"], ["r"]), node("Conv", ["r", "w"], ["y"])]
    proto = model(nodes, [info("x", [1, 1, 28, 28])], Y, {"w": samples(4, 1, 3, 3)})
    assert made(tmp_path, proto).kinds == {"x": "random numbers"}
    stuck = model([node("Mul", ["image", "z"], ["y"])], [info("image", [1, 1, 28, 28])], Y, {"z": scalar(0)})
    assert made(tmp_path, stuck).kinds == {"image": "images of 1 channel, 0 to 1"}


def test_random_numbers_come_first_for_proofs(tmp_path):
    path = put(tmp_path / "m.onnx", vision([1, 1, 28, 28], channels=1))
    found = synthesise(Model.load(path), open_session(path), 1, realistic=False)
    assert found.kinds == {"x": "random numbers"}
    assert found.feeds[0]["x"].min() < -1


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["image", "features", "waveform", "tokens"]), st.integers(1, 2), st.integers(1, 70),
    st.integers(1, 70), st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 3),
)  # fmt: skip
def test_values_fit_every_shape(what, batch, first, second, dtype, seed):
    kind, shape = {
        "image": (Image(3, 3, -1, 1, ""), (batch, first, second, 3)),
        "features": (Features(2, 1), (batch, first, second)),
        "waveform": (Waveform(1, 9), (batch, first * second)),
        "tokens": (Tokens(first), (batch, second)),
    }[what]
    values = kind.values(np.random.default_rng(seed), shape, np.dtype(dtype))
    assert (values.shape, values.dtype, np.isfinite(values).all()) == (shape, dtype, True)
    assert values.flags.c_contiguous
    if what == "image":
        assert np.abs(values).max() <= 1
    if what == "tokens":
        assert (values.min() >= 0, values.max() < first) == (True, True)


NAMES = ["x", "image", "audio", "mel", "sr", "state", "ids", "x_lens", "mask", "token_type_ids", "past", "h"]
SIZES = st.sampled_from([1, 3, 8, 40, 80, 500, "N", "T", None])


def _is_small(shape):
    return math.prod(size if isinstance(size, int) else 64 for size in shape) < 20_000


SHAPES = st.lists(SIZES, max_size=4).filter(
    lambda shape: math.prod(s if isinstance(s, int) else 64 for s in shape) < 2e4
)
ELEMENTS = st.sampled_from([1, F16, I64, I32, U8, TensorProto.INT8, TensorProto.BOOL])


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(NAMES), st.tuples(SHAPES, ELEMENTS), min_size=1, max_size=4))
def test_inputs_are_found_whatever_their_names_and_shapes(tmp_path_factory, inputs):
    nodes = [node("Identity", [name], [f"{name}_out"]) for name in inputs]
    outputs = [info(f"{name}_out", None, element) for name, (_, element) in inputs.items()]
    proto = model(nodes, [info(name, shape, element) for name, (shape, element) in inputs.items()], outputs)
    found = made(tmp_path_factory.mktemp("m"), proto, 1)
    assert found.kinds.keys() == inputs.keys()
    for array in found.feeds[0].values():
        assert np.isfinite(array).all()


def test_the_result_says_what_was_recognised(tmp_path):
    path = put(tmp_path / "m.onnx", vision([1, 3, 32, 32]))
    assert onnxprune.verify(path, path).input_kinds == {"x": "images of 3 channels, normalised"}
    data = {"x": samples(4, 3, 32, 32)}
    assert onnxprune.verify(path, path, data=data).input_kinds == {}


@pytest.mark.parametrize("encoding", ["dense", "flat", "rows", "bitmask", "escape"])
@pytest.mark.parametrize("values", ["exact", "half", "shared:4", "int8"])
def test_indices_of_a_table_are_recognised_when_it_is_encoded(tmp_path, encoding, values):
    table = np.where(samples(600, 32) > 1, samples(600, 32), np.float32(0))
    proto = model([node("Gather", ["t", "ids"], ["y"])], [info("ids", ["batch", "seq"], I64)], Y, {"t": table})
    path = put(tmp_path / "m.onnx", proto)
    onnxprune.encode(path, tmp_path / "e.onnx", values=values, encoding=encoding, verify=False)
    opened = Model.load(tmp_path / "e.onnx")
    assert recognise(opened, inputs_of(open_session(tmp_path / "e.onnx")))["ids"] == Tokens(600)
