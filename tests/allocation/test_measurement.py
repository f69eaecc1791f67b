"""Measured once, stored often: what does not depend on the loss is good for every loss and every copy of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation import measurement, noise_gain
from onnxprune.allocation.choice import choose
from onnxprune.allocation.measurement import Measured, Measurements
from onnxprune.allocation.rate_distortion import LOSS, RatePoint
from onnxprune.calibration import moments
from onnxprune.encodings.candidates import EXACT, HALF, Candidates, Choice
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.smallest import Encoder
from onnxprune.encodings.values import form_of
from onnxprune.model.discovery import find
from onnxprune.model.encoded_names import fresh_ids
from onnxprune.model.model import Model
from onnxprune.pipeline.change import Change
from onnxprune.quantization.codebook import Codebook
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import conv_net, info, lstm, mlp, model, node, normal
from tests.helpers.running import load, serialise

LOSSES = (0.0, 0.003, 0.02, 0.3, 2.0)


def clustered() -> onnx.ModelProto:
    """A weight of nine values, which is kept in a codebook without a loss, before one that is not."""
    few = np.round(2 * normal(96, 80)) / 2
    weights = {"few": few.clip(-2, 2).astype(np.float32), "many": normal(80, 40, seed=1)}
    nodes = [node("MatMul", ["x", "few"], ["h"]), node("MatMul", ["h", "many"], ["y"])]
    return model(nodes, [info("x", ["N", 96])], [info("y", ["N", 40])], weights)


MODELS = {"mlp": lambda: mlp((64, 96, 40)), "conv": conv_net, "clustered": clustered}


def encoded_once(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model encoded with a loss, which stands in its metadata."""
    opened = load(proto)
    Encode(values="auto", loss=0.01).run(opened)
    return onnx.load_from_string(serialise(opened))


def opened(proto: onnx.ModelProto) -> Model:
    """The model as encode gets it: what was encoded is decoded, and known to have been."""
    found = load(proto)
    Decode().run(found)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    """Inputs of each model by its name."""
    folder, files = tmp_path_factory.mktemp("data"), {}
    for name, make in MODELS.items():
        first = make().graph.input[0]
        shape = [dim.dim_value or 32 for dim in first.type.tensor_type.shape.dim]
        files[name] = str(folder / f"{name}.npz")
        np.savez(files[name], **{first.name: normal(32, *shape[1:], seed=2)})
    return files


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)), again=st.booleans(), keep=st.booleans(), with_data=st.booleans(),
    prefer=st.sampled_from(["speed", "size"]), values=st.sampled_from(["auto", "shared:3", "int8"]),
    first=st.sampled_from(LOSSES),
)  # fmt: skip
def test_storing_in_copies_gives_what_a_run_gives(data, name, again, keep, with_data, prefer, values, first):
    proto = encoded_once(MODELS[name]()) if again else MODELS[name]()
    step = Encode(
        values=values, loss=first, keep_zeros=keep, prefer=prefer, set=("*many*=auto",) if name == "clustered" else (),
        data=data[name] if with_data else "", samples=16,
    )  # fmt: skip
    held = opened(proto)
    measurements = step.measure(held)
    for loss in LOSSES:
        own, fresh = replace(step, loss=loss), opened(proto)
        wanted = own.run(fresh)
        copy = opened(proto)
        copy.opset = held.opset
        found = own.store(copy, measurements)
        assert serialise(copy) == serialise(fresh)
        assert found == wanted


@given(loss=st.sampled_from(LOSSES))
@settings(max_examples=3, deadline=None)
def test_forms_that_are_too_large_to_be_held_are_made_twice(loss):
    step, whole, again = Encode(values="auto", loss=loss), opened(clustered()), opened(clustered())
    step.run(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "_HELD_BYTES", 10)
        measurements = step.measure(again)
        assert measurements.weights["few"].lossless is None
        step.store(again, measurements)
    assert serialise(again) == serialise(whole)


def test_measurements_stay_good_when_their_model_is_gone():
    """Also a form that is a view of the weight is held in memory."""
    exact_in_half = normal(64, 96).astype(np.float16).astype(np.float32)
    nodes, weights = [node("MatMul", ["x", "w"], ["y"])], {"w": exact_in_half}
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 96])], weights)
    step, held = Encode(values="auto", loss=0.0), opened(proto)
    measurements = step.measure(held)
    (form,) = measurements.weights["w"].lossless or ()
    assert form.values == HALF
    assert isinstance(form.coded.carrier, np.ndarray)
    find(held)[0].set_array(held, np.zeros_like(exact_in_half))
    copy = opened(proto)
    step.store(copy, measurements)
    Decode().run(copy)
    np.testing.assert_array_equal(find(copy)[0].array(copy), exact_in_half)


def test_what_raised_the_opset_stands_in_the_change_of_every_store():
    proto, step = mlp((64, 96, 40), opset=9), Encode(values="auto", loss=0.02)
    held = opened(proto)
    measurements = step.measure(held)
    assert held.opset > 9
    assert measurements.change.modified
    notes = list(measurements.change.notes)
    for _ in range(2):
        copy = Model.of_bytes(held.to_bytes())
        change = step.store(copy, measurements)
        assert change.notes[: len(notes)] == notes
        assert change.modified
    assert measurements.change.notes == notes
    assert not measurements.change.weights


def measured(*losses: float, changed: bool = False) -> Measured:
    """A weight of 1000 bytes that halves at each of the losses."""
    book = Codebook(np.array([0.0, 1.0]), 1.0, np.array([1, 1]))
    points = [RatePoint(1000 / 2**step, loss, book, np.ones(1)) for step, loss in enumerate(losses, 1)]
    return Measured(curve=(RatePoint(1000, 0.0), *points), changed=changed)


def of(spent: float = 0.0, **weights: Measured) -> Measurements:
    ways = [((*[n for n, m in weights.items() if m.changed == changed and m.curve],),) for changed in (False, True)]
    return Measurements(weights, (ways[0], ways[1]), spent, 0, True, Change())


def test_weights_share_the_loss():
    found = of(a=measured(0.1), b=measured(0.1))
    assert [choose(found, 0.1)[name].plain for name in "ab"] == [False, True]
    assert [choose(found, 0.2)[name].plain for name in "ab"] == [False, False]
    assert all(choice.plain for choice in choose(found, 0.0).values())


@pytest.mark.parametrize("size", [16, 20, 24])
def test_a_codebook_larger_than_what_it_saves_is_not_taken(size):
    def stored(**options) -> int:
        opened = load(
            model([node("Conv", ["x", "w"], ["y"])], [info("x", ["N", size, 4, 4])], [info("y", None)], weights)
        )
        Encode(**options).run(opened)
        return len(serialise(opened))

    weights = {"w": normal(size, size, 1, 1)}
    assert stored(values="auto", loss=1e-5) <= stored(values="half") < stored(values="shared:8")


@pytest.mark.parametrize("channels", [48, 64])
def test_small_kernels_take_a_grid_without_a_codebook(channels):
    weights = {"w": normal(channels, 1, 5, 5) * np.geomspace(0.1, 10, channels, dtype=np.float32)[:, None, None, None]}
    nodes = [node("Conv", ["x", "w"], ["y"], group=channels)]
    opened = load(model(nodes, [info("x", ["N", channels, 8, 8])], [info("y", None)], weights))
    Encode(values="auto", loss=2e-4).run(opened)
    assert len(serialise(opened)) < 1.4 * weights["w"].size  # a codebook of codes of a byte: 1.7 and more
    decoded = load(onnx.load_from_string(serialise(opened)))
    Decode().run(decoded)
    (found,) = (weight.array(decoded) for weight in find(decoded) if weight.name == "w")
    lost = np.square(found - weights["w"]).sum((1, 2, 3)) / np.square(weights["w"]).sum((1, 2, 3))
    assert lost.mean() <= 2e-4


@pytest.mark.parametrize(
    ("kind", "values", "halved"),
    [
        ("bias", [1e-3], True),
        ("bias", [1.0, 1e-7], True),  # off by 2**-25 where the others are off by more
        ("bias", [1e-4, 1e-7], False),
        ("bias", [1.0, 1e5], False),
        ("bias", [1.0, np.inf], False),
        ("scale", [1.0, 1e-7], False),
        ("scale", [1.0, 0.0], True),
    ],
)
def test_a_tensor_is_halved_where_float16_keeps_what_it_does(kind, values, halved):
    tensor = np.resize(np.array(values, np.float32), 128)
    weights = {"w": normal(128, 128, 1, 1), "b": tensor, "one": np.ones(128, np.float32)}
    if kind == "bias":
        nodes = [node("Conv", ["x", "w", "b"], ["y"])]
    else:
        nodes = [node("Conv", ["x", "w"], ["h"]), node("BatchNormalization", ["h", "one", "one", "one", "b"], ["y"])]
    opened = load(model(nodes, [info("x", ["N", 128, 4, 4])], [info("y", None)], weights))
    Encode(values="auto", loss=0.01).run(opened)
    assert ("b" not in {tensor.name for tensor in opened.proto.graph.initializer}) == halved


def test_what_is_spent_counts_but_for_weights_that_changed_since():
    found = of(spent=0.1, a=measured(0.1), b=measured(0.1, changed=True))
    assert [choose(found, 0.1)[name].plain for name in "ab"] == [True, False]
    assert [choose(found, 0.2)[name].plain for name in "ab"] == [False, False]


def test_a_fixed_form_takes_no_loss_and_a_bias_becomes_half_with_any():
    found = of(a=Measured(form_of("int8")), b=Measured(halved=True), c=Measured())
    assert [choose(found, 0.0)[name].values for name in "abc"] == [form_of("int8"), EXACT, EXACT]
    assert [choose(found, 1e-9)[name].values for name in "abc"] == [form_of("int8"), HALF, EXACT]


def stored(array: np.ndarray, choice: Choice, encoder: Encoder):
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    held = load(model(nodes, [info("x", ["N", array.shape[0]])], [info("y", ["N", array.shape[1]])], {"w": array}))
    return encoder.store(Candidates(held, find(held)[0]), choice, next(fresh_ids(held.proto))), held


def test_a_form_without_a_loss_is_taken_where_the_one_asked_for_is_no_smaller():
    array = np.random.default_rng(0).choice(np.arange(1, 17, dtype=np.float32), (64, 64))
    found, held = stored(array, Choice(form_of("half")), Encoder())
    Decode().run(held)
    assert (found.encoding, found.zeros) == ("dense", 0)
    assert found.nbytes < array.size
    np.testing.assert_array_equal(find(held)[0].array(held), array)


def test_a_form_that_saves_nothing_is_refused_and_leaves_nothing_behind():
    array = normal(8, 8)
    found, held = stored(array, Choice(form_of("int4")), Encoder())
    untouched = stored(array, Choice(), Encoder())[1]
    assert (found.encoding, found.changed, found.refused) == ("dense", False, "int4 gains nothing")
    assert serialise(held) == serialise(untouched)


@pytest.mark.parametrize(("encoding", "taken"), [("auto", "flat"), ("graph", "flat"), ("coo", "coo"), ("rows", "rows")])
def test_only_what_may_be_taken_is(encoding, taken):
    array = np.where(np.random.default_rng(0).random((128, 128)) < 0.03, normal(128, 128), np.float32(0))
    found, _ = stored(array, Choice(), Encoder(encoding))
    assert found.encoding == taken
    assert found.numbered == (taken != "coo")


@pytest.mark.parametrize(("with_data", "known", "counts"), [(False, True, 1.5), (True, True, 1.0), (True, False, 1.5)])
def test_what_no_feedback_makes_good_counts_more(with_data, known, counts, tmp_path, monkeypatch):
    """Weights that a state goes through, and with data all whose inputs cannot be measured."""
    monkeypatch.setattr(noise_gain, "gains_on", lambda model, weights, *rest: [1.0] * len(weights))
    proto = lstm()
    if not known:
        monkeypatch.setattr(moments, "moments", lambda model, layers, calibration: [None] * len(layers))
    first = proto.graph.input[0]
    shape = [dim.dim_value or 32 for dim in first.type.tensor_type.shape.dim]
    np.savez(tmp_path / "d.npz", **{first.name: normal(8, *shape, seed=2)})
    measurements = Encode(values="auto", data=str(tmp_path / "d.npz") if with_data else "").measure(opened(proto))
    curved = [held for held in measurements.weights.values() if held.curve]
    assert curved
    assert {held.noise for held in curved} == {counts}
    assert {held.unseen for held in curved} == {with_data and not known}
    lost = [sum(choice.planned or 0 for choice in choose(measurements, loss).values()) for loss in (LOSS, 8 * LOSS)]
    assert (lost[1] > 1.5 * lost[0]) == (known or not with_data)  # else as without data, whatever the outputs may lose
    plain = Encode(values="auto").measure(opened(mlp((64, 96, 40))))
    assert {held.noise for held in plain.weights.values() if held.curve} == {1.0}


@pytest.mark.parametrize(
    "options",
    [{"encoding": "dense"}, {"encoding": "bitmask"}, *({"target": (name,)} for name in ("onnxruntime", "mnn"))],
)
def test_what_is_planned_for_planes_is_stored_in_them_alone(options):
    """Many levels, the rare ones cheap, would take a byte for each entry in codes of one width."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    opened = load(model(nodes, [info("x", ["N", 256])], [info("y", ["N", 512])], {"w": normal(256, 512)}))
    Encode(values="auto", loss=0.01, **options).run(opened)
    (group,) = encoded_weights(opened)
    levels = opened.array(group.constants[f"{group.prefix}book"])
    assert (group.encoding == "escape") == ("target" in options)
    assert len(levels) <= 16 or group.encoding == "escape"


@pytest.mark.parametrize(("outputs", "fused"), [(64, False), (255, False), (256, True), (384, True)])
@pytest.mark.parametrize("values", ["auto", "int8"])
def test_kernels_read_small_weights_only_where_integers_are_asked_for(outputs, fused, values):
    """Of 128 inputs each: fewer than 2**15 entries are multiplied as fast as floats."""
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])], [info("x", ["N", 128])], [info("y", ["N", outputs])],
        {"w": normal(128, outputs)},
    )  # fmt: skip
    held = load(proto)
    Encode(values=values, loss=0.0005).run(held)
    (weight,) = encoded_weights(held)
    assert weight.fused == (fused or values == "int8")
    assert held.opset == (21 if weight.fused else 17)


def test_what_is_lost_where_no_inputs_are_known_is_what_it_is_without_data(tmp_path):
    """Products of two values that are computed: their weights are those of no layer."""
    nodes = [node("Sin", ["w"], ["s"]), node("Gather", ["t", "i"], ["rows"], axis=1), node("MatMul", ["x", "s"], ["a"])]
    nodes += [node("ReduceSum", ["rows"], ["sum"]), node("Add", ["a", "sum"], ["y"])]
    held = {"w": normal(64, 96), "t": normal(40, 300, seed=1), "i": np.arange(8)}
    proto = model(nodes, [info("x", ["N", 64])], [info("y", ["N", 96])], held)
    np.savez(tmp_path / "d.npz", x=normal(32, 64, seed=2))
    with_data, without = load(proto), load(proto)
    change = Encode(values="auto", loss=0.32, data=str(tmp_path / "d.npz")).run(with_data)
    Encode(values="auto", loss=0.01).run(without)
    assert encoded_weights(without)
    assert with_data.proto == without.proto
    assert any("of no weight" in note for note in change.notes)
