"""Hypothesis runs the same examples every time, so that a red build stays red."""

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.builders import MODELS

settings.register_profile(
    "onnxprune", deadline=None, derandomize=True, max_examples=60, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("onnxprune")


@pytest.fixture(params=MODELS)
def case(request):
    """(model, names of the weights that are pruned by default), for every builder."""
    build, names = MODELS[request.param]
    return build(), names
