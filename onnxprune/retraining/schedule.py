"""How sparse a model is after each round of prune and retrain. Pure arithmetic; nothing here knows ONNX."""

from __future__ import annotations

from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # Zhu and Gupta 2017 (arXiv:1710.01878), from 0: much at first, while weights are redundant, little at the end.
    "cubic": lambda final, passed: final * (1 - (1 - passed) ** 3),
    "linear": lambda final, passed: final * passed,
    # Each round prunes the same share of what the last one left, as Han et al. 2015 and the lottery tickets do.
    "geometric": lambda final, passed: 1 - (1 - final) ** passed,
}


def sparsity(schedule: str, final: float, number: int, rounds: int) -> float:
    """The sparsity that a round prunes to; the last one's is `final` to the bit.

    Args:
        schedule: a name of `SCHEDULES`.
        final: the sparsity of the last round.
        number: of the round, from 1.
        rounds: how many there are.
    """
    return final if number == rounds else SCHEDULES[schedule](final, number / rounds)
