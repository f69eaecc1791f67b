"""tools/bench for its tests."""

from types import SimpleNamespace

import pytest

from tests.helpers.benches import modules


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return modules(monkeypatch)
