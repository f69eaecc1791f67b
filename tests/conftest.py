"""Hypothesis runs the same examples every time, so that a red build stays red; signals and markers."""

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: workers have a core each

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.builders import MODELS

settings.register_profile(
    "onnxprune", deadline=None, derandomize=True, max_examples=60, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("onnxprune")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What needs an extra is `extra` too, so that one word chooses all of it."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("torch", "jax", "keras")):
            item.add_marker("extra")


@pytest.fixture(params=MODELS)
def case(request):
    """(model, names of the weights that are pruned by default), for every builder."""
    build, names = MODELS[request.param]
    return build(), names
