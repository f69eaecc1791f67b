"""Every error that onnxprune raises on purpose.

OnnxPruneError            exit code 1: the input or the request is bad
├── ModelError            the model cannot be read, is damaged, or names data outside its folder
├── WeightError           a weight's values cannot be used (NaN, Inf) or a weight is unknown
├── OptionError           an option's value is out of range, or options contradict each other
├── DataError             --data does not fit the model's inputs
├── OutputError           the output cannot be written
├── PackedError           a packed model is damaged, of a newer version, or a model cannot be packed
├── MaskError             a mask file is damaged, of a newer version, or does not fit the model
├── CheckpointError       a checkpoint cannot be read, lacks a tensor, or holds one that does not fit
├── CurvesError           a sensitivity scan's file is damaged, of a newer version, or of another model
├── CommandError          a command of the user failed, or did not answer as agreed
├── MetricError           a metric of the user failed, or gave no finite number
├── WorkerError           a process that worked on one of many items was killed again and again
├── PassError             a pass is unknown, clashes with another provider's, or failed
├── NoGain                activations int8 finds no layer that gains, or makes the model no faster
├── RuntimeFailure        ONNX Runtime refuses to load or to run a model
│   └── NotLoaded         it refuses to load it
└── ToleranceMissed       exit code 3: a check ran, and the result missed it
    └── NotVerified       a check was asked for and could not be run
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SWITCHES = {"in-place": "in_place=True", "no-verify": "verify=False", "no-strip": "strip=False"}


class OnnxPruneError(Exception):
    """The root of the tree; `exit_code` is what the command line ends with.

    Messages name options as the command line does; `str` gives them as Python's keywords, `one_line` as they are.
    """

    exit_code = 1

    def __str__(self) -> str:
        """The message in Python's words."""
        return re.sub(r"(?<![^ (])--([a-z][a-z-]*)", _keyword, super().__str__())


def _keyword(option: re.Match[str]) -> str:
    return _SWITCHES.get(option[1], option[1].replace("-", "_"))


class ModelError(OnnxPruneError):
    """The model cannot be read, is damaged, or names data outside its folder."""


class WeightError(OnnxPruneError):
    """A weight's values cannot be used, or a weight is unknown."""


class OptionError(OnnxPruneError):
    """An option's value is out of range, or options contradict each other."""


class DataError(OnnxPruneError):
    """The data does not fit the model's inputs."""


class OutputError(OnnxPruneError):
    """The output cannot be written."""


class PackedError(OnnxPruneError):
    """A packed model is damaged or of a newer version, or a model cannot be packed."""


class MaskError(OnnxPruneError):
    """A mask file is damaged or of a newer version, or does not fit the model."""


class CheckpointError(OnnxPruneError):
    """A checkpoint cannot be read, lacks a tensor, or holds one that does not fit."""


class CurvesError(OnnxPruneError):
    """A sensitivity scan's file is damaged, of a newer version, or of another model."""


class CommandError(OnnxPruneError):
    """A command of the user failed, or did not answer as agreed; `output` has the last lines that it printed."""

    def __init__(self, message: str, output: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.output = tuple(output)


class MetricError(OnnxPruneError):
    """A metric of the user failed, or gave no finite number."""


class WorkerError(OnnxPruneError):
    """A process that worked on one of many items was killed again and again."""


class PassError(OnnxPruneError):
    """A pass is unknown, clashes with another provider's, or failed."""


class NoGain(OnnxPruneError):
    """8-bit activations were asked for, and no layer gains from them or the model gets no faster."""


class RuntimeFailure(OnnxPruneError):
    """ONNX Runtime refuses to load or to run a model."""


class NotLoaded(RuntimeFailure):
    """ONNX Runtime refuses to load a model; `model` is what the error calls it, `node` has its name and operator."""

    def __init__(self, model: str, reason: str, node: tuple[str, str] | None = None) -> None:
        super().__init__(f"ONNX Runtime does not load {model}: {reason}")
        self.model, self.reason, self.node = model, reason, node

    def __reduce__(self) -> tuple[type[NotLoaded], tuple[str, str, tuple[str, str] | None]]:
        """Processes hand it to each other."""
        return type(self), (self.model, self.reason, self.node)


class ToleranceMissed(OnnxPruneError):
    """A check ran, and the result missed it."""

    exit_code = 3


class NotVerified(ToleranceMissed):
    """A check was asked for and could not be run."""


def one_line(error: Exception) -> str:
    """What the command line says of an error: never a traceback; what nobody foresaw is called a defect."""
    if isinstance(error, OnnxPruneError):
        return " ".join(Exception.__str__(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory for this model"
    return " ".join(f"a defect in onnxprune, please report it: {type(error).__name__}: {error}".split())
