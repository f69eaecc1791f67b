"""PerWeight: PATTERN=VALUE, parsed and checked in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import OptionError
from onnxprune.pipeline.per_weight import PerWeight, amount, fraction
from onnxprune_passes import Encode, Magnitude


def test_the_last_pattern_that_matches_counts():
    shares = PerWeight.parse("set", ["*=0.5", "conv?.w=0.25", "a=b=0.75"], "SPARSITY", fraction)
    assert shares.patterns == ("*", "conv?.w", "a=b")
    assert shares.match("conv1.w") == ("conv?.w", 0.25)
    assert [shares.get(name, 0.0) for name in ("fc", "conv1.w", "a=b")] == [0.5, 0.25, 0.75]


def test_without_a_match_there_is_the_default():
    assert PerWeight.parse("set", ["conv*=0.5"], "SPARSITY", fraction).get("fc", 0.125) == 0.125
    assert PerWeight[float]().match("fc") is None


@pytest.mark.parametrize("name", ["w[0]", "w*", "a?"])
def test_a_name_in_full_matches_whatever_it_looks_like(name):
    assert PerWeight.parse("set", [f"{name}=0.5"], "SPARSITY", fraction).get(name, 0.0) == 0.5


@given(st.lists(st.tuples(st.text("ab=*", min_size=1), st.floats(0, 1e9)), max_size=4))
def test_texts_are_read_as_they_were(entries):
    held = PerWeight(tuple(entries))
    assert PerWeight.parse("importance", held.texts(), "NUMBER", amount) == held


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Magnitude(set=("fc",)), "set 'fc' must be PATTERN=SPARSITY"),
        (lambda: Magnitude(set=("=0.5",)), "set '=0.5' must be PATTERN=SPARSITY"),
        (lambda: Magnitude(set=("fc=half",)), "set 'fc=half': 'half' is not a number"),
        (lambda: Magnitude(set=("fc=1",)), "set 'fc=1': sparsity must be at least 0 and below 1, not 1.0"),
        (lambda: Magnitude(set=("fc=nan",)), "set 'fc=nan': sparsity must be at least 0 and below 1, not nan"),
        (lambda: Encode(set=("fc",)), "set 'fc' must be PATTERN=VALUES"),
        (lambda: Encode(set=("fc=int7",)), "values 'int7' is not one of"),
        (lambda: Encode(importance=("fc",)), "importance 'fc' must be PATTERN=NUMBER"),
        (lambda: Encode(importance=("fc=-1",)), "importance 'fc=-1': the number must be from 0 up, not -1.0"),
        (lambda: Encode(importance=("fc=inf",)), "importance 'fc=inf': the number must be from 0 up, not inf"),
        (lambda: Encode(importance=("fc=x",)), "importance 'fc=x': 'x' is not a number"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(make, message):
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value).startswith(message)
