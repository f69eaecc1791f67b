"""Value forms: what numpy restores is bit for bit what ONNX Runtime computes, within the form's error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxprune.encodings import GRAPH
from onnxprune.encodings.graph.encoded import encoded_weights
from onnxprune.encodings.graph.insert import insert, prepare
from onnxprune.encodings.sparse import Sparse
from onnxprune.encodings.values import form_of
from onnxprune.model.discovery import find
from onnxprune_passes import Decode, Encode
from tests.helpers.builders import info, mlp, model, node, normal
from tests.helpers.running import assert_same_bits, load, newest_opset, run, serialise

BF16 = np.dtype(ml_dtypes.bfloat16)
FORMS = ["half", *(f"shared:{b}" for b in range(2, 9)), "int8", *(f"int8:{b}" for b in range(2, 8)), "int4", "int2"]
# Relative squared errors of normally distributed weights, about twice those of Max (1960).
BOUNDS = {2: 0.25, 3: 0.08, 4: 0.025, 5: 0.008, 6: 0.0025, 7: 0.0008, 8: 0.0003}


def bound_of(values: str) -> float:
    if values == "half":
        return 2.0**-22
    if values == "auto":
        return 0.05
    bits = {"int4": 4, "int2": 2}.get(values) or int((values + ":8").split(":")[1])
    return BOUNDS[bits]


def arrays() -> dict[str, np.ndarray]:
    """Shapes and values that are out of the ordinary."""
    rng, plain = np.random.default_rng(0), normal(40, 33)
    dead = np.arange(33) < 3
    huge = plain.copy()
    huge[5, 7] = 1e38
    scaled = {f"1e{e}": plain * np.float32(10.0**e) for e in (-38, -20, -9, -4, 4, 6, 20, 37)}
    made = scaled | {
        "plain": plain, "one": plain[:1, :1], "scalar row": plain[0, :1], "vector": plain[0], "row": plain[:1],
        "column": plain[:, :1], "two": plain[:2, 0], "odd": normal(7, 13), "conv": normal(6, 5, 3, 3),
        "cube": normal(3, 5, 7), "zero": plain * 0, "one zero": plain[:1, :1] * 0,
        "equal": plain * 0 + np.float32(0.37),
        "few": rng.choice([-0.5, 0, 0.25, 3], (20, 9)), "student": rng.standard_t(2, (40, 33)),
        "sparse": np.where(rng.random((40, 33)) < 0.1, plain, 0), "one huge": huge,
        "negative zeros": np.where(plain < 0, np.float32(-0.0), plain), "only negative zeros": plain * 0 * -1,
        "dead channels": np.where(dead, plain * np.float32(1e-36), plain * 0.02),
        "zero channels": np.where(dead, 0, plain), "subnormal": plain * np.float32(1e-42),
        "1e38": np.sign(plain) * np.float32(1e38) * rng.uniform(0.1, 3, plain.shape),
        "every size": plain * 10.0 ** np.linspace(-36, 36, 33, dtype=np.float32),
    }  # fmt: skip
    return {name: np.asarray(array, np.float32) for name, array in made.items()}


ARRAYS = arrays()


def typed(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    limit = float(ml_dtypes.finfo(dtype).max) / 4
    return np.clip(array.astype(np.float64), -limit, limit).astype(dtype)


def restored(cases, values: str, version: int):
    """(array, what numpy restores, what Decode restores, what ONNX Runtime computes) of each (array, encoding)."""
    nodes, outs, held = [], [], {}
    for i, (array, _) in enumerate(cases):
        name, wide = f"w{i}", array.dtype == BF16  # numpy cannot take bfloat16 from ONNX Runtime
        held[name] = array
        nodes.append(node("Cast", [name], [f"y{i}"], to=1) if wide else node("Identity", [name], [f"y{i}"]))
        outs.append(info(f"y{i}", list(array.shape), 1 if wide else helper.np_dtype_to_tensor_dtype(array.dtype)))
    nodes.append(node("Identity", ["x"], ["z"]))
    opened = load(model(nodes, [info("x", [1])], [*outs, info("z", [1])], held, version))
    for weight in find(opened):
        array, encoding = cases[int(weight.value[1:])]
        form = form_of(values)
        if array.ndim > 1:  # as its readers would have it: a matrix is [in, out], a kernel [out, in, ...]
            weight.out_axis, weight.in_axes = (1, (0,)) if array.ndim == 2 else (0, tuple(range(1, array.ndim)))
        coded = form.code(weight, array, None)
        if coded is None:
            pytest.skip("far from ordinary sizes: stays exact")
        if not encoding.fits(coded.codebook):
            continue
        sparse = Sparse.of(coded.carrier, coded.fill_value, coded.codebook)
        insert(opened, weight, prepare(opened, weight, coded, sparse, encoding, form, f"~{weight.value}"))
    ours = {p.value: p.array(opened) for p in encoded_weights(opened)}
    got = run(serialise(opened), {"x": np.zeros(1, np.float32)}, optimised=False)
    Decode().run(opened)
    decoded = {w.value: w.array(opened) for w in find(opened)}
    for i, (array, _) in enumerate(cases):
        if f"w{i}" in ours:  # one element is no weight
            yield array, ours[f"w{i}"], decoded[f"w{i}"], got[i]


SOME = ["half", "shared:2", "shared:6", "int8", "int8:4", "int4"]
PAIRS = [(n, v) for n in ARRAYS for v in (FORMS if n in ("odd", "conv", "sparse") else SOME)]


@pytest.mark.parametrize(("name", "values"), PAIRS)
def test_every_encoding_restores_what_the_runtime_computes(name, values):
    form, bound = form_of(values), max(bound_of(values), 1e-6)
    if values == "half" and np.abs(ARRAYS[name]).max() > 65504:
        pytest.skip("does not fit: test_encodings has it")
    types = [np.dtype(t) for t in (np.float64, np.float16, BF16)]
    types = [t for t in types if form.fits(helper.np_dtype_to_tensor_dtype(t))]
    for version in (10, newest_opset()) if name in ("odd", "sparse", "conv", "vector") else (newest_opset(),):
        cases = [(ARRAYS[name], e) for e in GRAPH.values() if e.opset <= version]
        if version > 10:
            cases += list(zip([typed(ARRAYS[name], t) for t in types], GRAPH.values(), strict=False))
        for array, ours, decoded, theirs in restored(cases, values, version):
            assert_same_bits(decoded, ours)
            if ours.dtype == BF16:
                np.testing.assert_array_equal(theirs, ours.astype(np.float32))
            else:
                assert_same_bits(theirs, ours)
            assert ours.dtype == array.dtype
            assert np.isfinite(ours).all()
            assert not ours[array == 0].any()
            a, b = array.astype(np.float64), ours.astype(np.float64)
            energy = np.square(a).sum()
            if values != "half" and name != "one huge" and energy:
                assert np.square(a - b).sum() <= 4 * bound * energy


# the error of each form -----------------------------------------------------------------------------


def through(array: np.ndarray, values: str, dtype=np.float32, **options) -> np.ndarray | None:
    """A matrix as Encode stores it; None where it stays as it is."""
    array = np.asarray(array, dtype)
    rows, columns = array.shape
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", ["N", rows], element)], [info("y", ["N", columns], element)], {"w": array}, 21)
    opened = load(proto)
    Encode(values=values, keep_zeros=True, **options).run(opened)
    found = encoded_weights(opened)
    return found[0].array(opened) if found and found[0].values != "exact" else None


@settings(max_examples=25)
@given(values=st.sampled_from(FORMS), exponent=st.integers(-126, 123), seed=st.integers(0, 50))
def test_the_error_does_not_depend_on_the_size_of_the_weights(values, exponent, seed):
    array = normal(64, 40, seed=seed) * np.float32(2.0**exponent)
    decoded = through(array, values)
    if values == "half":  # its error does depend on the size
        return
    ordinary = 1e-15 <= np.abs(array).max() <= 1e15
    assert (decoded is not None) == ordinary  # the others are kept exactly
    if not ordinary:
        return
    a, b = array.astype(np.float64), decoded.astype(np.float64)
    assert np.square(a - b).sum() <= bound_of(values) * np.square(a).sum()


@settings(max_examples=25)
@given(values=st.sampled_from(FORMS), low=st.sampled_from([-38, -30, -12, -6, -3]), seed=st.integers(0, 20))
def test_dead_channels_stay_dead(values, low, seed):
    """Weight decay leaves channels near 0: they must not come back as noise."""
    array = normal(64, 64, seed=seed) * np.float32(0.02)
    array[:, :6] *= np.float32(10.0**low)
    decoded = through(array, values)
    assert decoded is not None
    assert np.abs(decoded[:, :6]).max() <= 0.1
    error = np.square(array.astype(np.float64) - decoded).sum()
    assert error <= max(2 * bound_of(values), 1e-6) * np.square(array.astype(np.float64)).sum()


@settings(max_examples=25)
@given(seed=st.integers(0, 99), exponent=st.integers(-40, 40), rows=st.integers(8, 80), columns=st.integers(40, 80))
def test_int8_is_off_by_a_step_at_the_most_and_its_outputs_by_half_of_one(seed, exponent, rows, columns):
    """A few entries go to the farther step: then the errors of an output add up to nearly nothing."""
    array = normal(rows, columns, seed=seed) * np.float32(2.0**exponent)
    decoded = through(array, "int8")
    assert decoded is not None
    step = np.abs(array).max(0).astype(np.float64) / 127
    error = array.astype(np.float64) - decoded
    assert (np.abs(error) <= step).all()
    assert np.mean(np.abs(error) <= step * 0.502) > 0.8
    assert (np.abs(error.sum(0)) <= step * 0.51).all()


@settings(max_examples=25)
@given(values=st.sampled_from(FORMS), seed=st.integers(0, 30), share=st.sampled_from([0.0, 0.3, 0.9, 0.99]))
def test_zeros_stay_and_no_other_comes_from_shared_values(values, seed, share):
    array = normal(64, 48, seed=seed) * (np.random.default_rng(seed).random((64, 48)) >= share)
    decoded = through(array, values)
    assert decoded is not None
    assert not decoded[array == 0].any()
    if values.startswith("shared"):
        assert decoded[array != 0].all()


@pytest.mark.parametrize("keep_zeros", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_zeros_stay_where_the_loss_decides(share, keep_zeros):
    proto = mlp((96, 128, 64, 16))
    opened = load(proto)
    for weight in find(opened):
        if weight.reason is None:
            array = weight.array(opened)
            weight.set_array(opened, array * (np.random.default_rng(1).random(array.shape) >= share))
    before = {w.name: w.array(opened) for w in find(opened)}
    Encode(values="auto", keep_zeros=keep_zeros, loss=0.05).run(opened)
    assert any(p.values != "exact" for p in encoded_weights(opened))
    for group in encoded_weights(opened):
        decoded = group.array(opened)
        assert not decoded[before[group.name] == 0].any()
        if keep_zeros and group.values == "shared":
            assert decoded[before[group.name] != 0].all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_shared_values_are_at_most_two_to_the_bits(bits):
    for array in (normal(64, 96), normal(64, 96) * np.geomspace(0.01, 1, 96, dtype=np.float32)):
        decoded = through(array, f"shared:{bits}")
        assert decoded is not None
        each = max(len(np.unique(np.append(column, 0))) for column in decoded.T)
        assert each <= 2**bits
        table = load(
            model([node("Gather", ["w", "i"], ["y"])], [info("i", ["N"], 7)], [info("y", ["N", 96])], {"w": array})
        )
        Encode(values=f"shared:{bits}").run(table)
        found = encoded_weights(table)[0].array(table)
        assert len(np.unique(np.append(found, 0))) <= 2**bits


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_fewer_values_than_levels_lose_nothing(bits, share):
    rng = np.random.default_rng(bits)
    values = rng.standard_normal(2**bits - 1).astype(np.float16).astype(np.float32)
    array = np.where(rng.random((90, 70)) < share, 0, rng.choice(values, (90, 70))).astype(np.float32)
    decoded = through(array, f"shared:{bits}")
    assert decoded is not None
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize("form", ["shared:8", "int8:7"])
@pytest.mark.parametrize("degrees", [3, 5])
def test_heavy_tails(form, degrees):
    array = np.random.default_rng(degrees).standard_t(degrees, (256, 128)).astype(np.float32)
    decoded = through(array, form)
    assert decoded is not None
    error = np.square(array.astype(np.float64) - decoded).sum() / np.square(array.astype(np.float64)).sum()
    assert error < (0.001 if form == "shared:8" else 0.01)


@pytest.mark.parametrize("values", ["shared:4", "int8:4", "int8", "int4", "auto"])
def test_a_large_weight_with_large_values(values):
    """Above 2**18 elements energies are summed in float32."""
    array = normal(600, 600) * np.float32(1e14)
    decoded = through(array, values)
    assert decoded is not None
    error = np.square(array.astype(np.float64) - decoded).sum() / np.square(array.astype(np.float64)).sum()
    assert error <= 0.05


@pytest.mark.parametrize("values", ["shared:4", "int8", "int8:4", "int4"])
@pytest.mark.parametrize(("dtype", "largest"), [(np.float16, 64_000), (np.float32, 9e14), (np.float64, 9e14)])
def test_the_largest_numbers_of_a_type_stay_finite(values, dtype, largest):
    rng = np.random.default_rng(0)
    array = rng.choice([-1, 1], (64, 80)) * rng.uniform(0.5, 1, (64, 80))
    decoded = through((array * largest).astype(dtype), values, dtype)
    assert decoded is not None
    assert np.isfinite(decoded).all()
    assert through(array.astype(dtype) * np.finfo(dtype).max, values, dtype) is None, "what is larger stays as it is"


@pytest.mark.parametrize("values", [*FORMS, "auto"])
@pytest.mark.parametrize("size", [997, 1000])
def test_a_vector_keeps_its_shape(values, size):
    """997 codes do not fill their last word."""
    proto = model([node("Gather", ["w", "i"], ["y"])], [info("i", ["N"], 7)], [info("y", ["N"])], {"w": normal(size)})
    opened = load(proto)
    Encode(values=values).run(opened)
    assert encoded_weights(opened)
    got = run(serialise(opened), {"i": np.arange(size)})[0]
    Decode().run(opened)
    assert_same_bits(find(opened)[0].array(opened), got)


@pytest.mark.parametrize("values", ["shared:4", "int8", "int8:4", "int4", "auto"])
@pytest.mark.parametrize("scale", [1e-38, 1e-9, 1e-5, 1.0, 1e4, 1e6, 1e30])
def test_a_table_without_axes_may_be_of_any_size(values, scale):
    """No channel's scale brings its values into float16's range."""
    array = (normal(500, 16) * scale).astype(np.float32)
    proto = model([node("Gather", ["w", "i"], ["y"])], [info("i", ["N"], 7)], [info("y", ["N", 16])], {"w": array})
    opened = load(proto)
    Encode(values=values, keep_zeros=True).run(opened)
    groups = encoded_weights(opened)
    assert bool(groups) == (1e-15 < scale < 1e15)
    for group in groups:
        error = np.square(array.astype(np.float64) - group.array(opened)).sum()
        assert error <= 0.05 * np.square(array.astype(np.float64)).sum()


@pytest.mark.parametrize("low", [1e-38, 1e-32, 1e-20])
def test_dead_channels_do_not_break_the_loss(low):
    array = normal(64, 128) * np.float32(0.02)
    array[:, :4] *= np.float32(low)
    decoded = through(array, "auto", loss=0.02)
    assert decoded is not None
    assert np.square(array.astype(np.float64) - decoded).sum() <= 0.03 * np.square(array.astype(np.float64)).sum()
