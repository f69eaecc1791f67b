"""How far the outputs of two models lie apart, gathered batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.core.dtypes import Array
from onnxprune.errors import OptionError


@dataclass
class OutputDeviation:
    """One output over all samples.

    Attributes:
        max_abs: largest absolute difference; infinite where shapes or finiteness differ.
        sqnr_db: 10 log10(signal power / error power), infinite where the outputs are equal.
        cosine: between all values of the two outputs.
        top1_agreement: share of rows (last axis) with the same largest entry; None without classes.
    """

    name: str
    max_abs: float = 0.0
    rows: int = 0
    agreed: int = 0
    _sums: Array = field(default_factory=lambda: np.zeros(5), repr=False)  # a.a, b.b, a.b, (a-b).(a-b), entries

    def add(self, a: Any, b: Any) -> None:
        """Take in one batch of the reference `a` and of the result `b`."""
        if isinstance(a, list | dict):
            self._add_parts(a, b)
            return
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            self.max_abs = math.inf
            self.rows += 1
            return
        if a.dtype.kind in "OSU" or b.dtype.kind in "OSU":  # labels: equal or not
            agreed = np.asarray(a == b)
            self.rows += agreed.size
            self.agreed += int(agreed.sum())
            if not agreed.all():
                self.max_abs = math.inf
            return
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        comparable = np.isfinite(x) & np.isfinite(y) | same
        if not comparable.all():
            self.max_abs = math.inf
        usable = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(usable, x, 0), np.where(usable, y, 0)
        difference = (x - y).reshape(-1)
        if difference.size:
            self.max_abs = max(self.max_abs, float(np.abs(difference).max()))
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        self._sums += [flat_x @ flat_x, flat_y @ flat_y, flat_x @ flat_y, difference @ difference, difference.size]
        if a.ndim and a.shape[-1] > 1 and a.size and a.dtype.kind == "f":
            tops = (x.argmax(-1) == y.argmax(-1)) & comparable.all(-1)
            self.rows += tops.size
            self.agreed += int(tops.sum())

    def _add_parts(self, a: Any, b: Any) -> None:
        """A sequence or a map: part by part."""
        keys = list(a) if isinstance(a, dict) else range(len(a))
        if type(a) is not type(b) or len(a) != len(b) or (isinstance(b, dict) and b.keys() != a.keys()):
            self.max_abs = math.inf
            self.rows += 1
            return
        for key in keys:
            self.add(a[key], b[key])

    @property
    def sqnr_db(self) -> float:
        """See the class; without limit below where shapes or finiteness differ."""
        signal, _, _, error, _ = self._sums
        if math.isinf(self.max_abs):
            return -math.inf
        if error == 0:
            return math.inf
        return 10 * math.log10(signal / error) if signal else -math.inf

    @property
    def relative_l2(self) -> float:
        """||a - b|| / ||a||."""
        return 10 ** (-self.sqnr_db / 20)

    @property
    def cosine(self) -> float:
        """See the class."""
        aa, bb, ab, error, _ = self._sums
        if math.isinf(self.max_abs):
            return 0.0
        if aa == 0 or bb == 0:
            return 1.0 if error == 0 else 0.0
        return float(min(1.0, ab / math.sqrt(aa * bb)))

    @property
    def mean_squared(self) -> float:
        """Mean of (a - b)^2; infinite where shapes or finiteness differ."""
        error, count = self._sums[3:]
        if math.isinf(self.max_abs):
            return math.inf
        return float(error / count) if count else 0.0

    @property
    def top1_agreement(self) -> float | None:
        """See the class."""
        return self.agreed / self.rows if self.rows else None

    def facts(self) -> dict[str, Any]:
        """For JSON: infinities, which JSON lacks, are null."""
        values = {
            "max_abs": self.max_abs,
            "relative_l2": self.relative_l2,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "top1_agreement": self.top1_agreement,
        }
        return {"name": self.name} | {k: v if v is None or math.isfinite(v) else None for k, v in values.items()}


def compare(reference: list[dict[str, Any]], result: list[dict[str, Any]]) -> list[OutputDeviation]:
    """One deviation per output.

    Raises:
        OptionError: the outputs do not have the same names.
    """
    names = list(reference[0]) if reference else []
    if reference and set(names) != set(result[0]):
        raise OptionError(f"the models cannot be compared: outputs {', '.join(names)} and {', '.join(result[0])}")
    found = [OutputDeviation(name) for name in names]
    for a, b in zip(reference, result, strict=True):
        for output in found:
            output.add(a[output.name], b[output.name])
    return found
