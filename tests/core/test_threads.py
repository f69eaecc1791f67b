"""Results of threads come in order, and few are in flight."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.core import threads


@given(st.integers(1, 5), st.integers(0, 30))
@settings(deadline=None)
def test_results_come_in_order_and_few_are_in_flight(jobs, count):
    asked = []

    def items():
        for number in range(count):
            asked.append(number)
            yield number

    with threads.using(jobs):
        for done, found in enumerate(threads.run(lambda n: list(threads.run(lambda m: m * n, [1, 2])), items())):
            assert found == [done, 2 * done]
            assert len(asked) <= done + jobs + 2


def test_a_single_item_is_worked_on_by_the_caller():
    with threads.using(2):
        caller = threading.current_thread()
        assert [*threads.run(lambda _: threading.current_thread(), [0])] == [caller]
        assert caller not in threads.run(lambda _: threading.current_thread(), [0, 1])
