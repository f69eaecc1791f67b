"""What becomes of encoded weights in ONNX Runtime: decoded once, row by row, by a kernel, or all at each run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.encodings.compatibility import session_entries
from onnxprune.encodings.graph.encoded import EncodedWeight, encoded_weights
from onnxprune.layer_costs.flops import KERNEL
from onnxprune.layer_costs.in_turn import milliseconds, one_thread
from onnxprune.layer_costs.measure import inputs_for, with_plain_weights
from onnxprune.model.model import Model
from onnxprune.runtime.session import Feeds, profile, run

_OWNER = "onnxprune:"  # is in the name of every node that writes a weight
_ROUNDS, _SECONDS = 100, 0.2  # at most so many timed rounds, within so many seconds


@dataclass(frozen=True)
class Decoding:
    """The encoded weights of a model by what the ONNX Runtime that is installed does with them.

    Attributes:
        folded: names of those that are decoded when the model is loaded.
        fused: of those whose small integers a kernel reads.
        each_run: of those that are decoded at every run.
        gathered: of tables of which each run decodes the rows that it gathers.
        latency_ms: on one thread, of a run of the model, `after`, and of the dense one, `before`, see `milliseconds`;
            empty where none is slower or faster for its encoding, or nothing was there to compare with.
        unfused: entries of the session under which integers are decoded when the model is loaded, see
            `session_entries`.
    """

    folded: list[str] = field(default_factory=list)
    fused: list[str] = field(default_factory=list)
    each_run: list[str] = field(default_factory=list)
    gathered: list[str] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)
    unfused: dict[str, str] = field(default_factory=dict)

    @property
    def slower(self) -> float:
        """How many times longer a run takes than one of the dense model; 0 where that was not measured."""
        return self.latency_ms["after"] / self.latency_ms["before"] if self.latency_ms else 0.0


def decoding(path: Path, feeds: Feeds, dense: Path | None = None, before: Model | None = None) -> Decoding:
    """Run a model once under ONNX Runtime's profiler, and see which nodes that write a weight are still there.

    Args:
        path: the model.
        feeds: inputs for it.
        dense: the model before it was encoded: both are timed in turn where the weights make a difference.
        before: that model as it was loaded: weights that are encoded as they were in it make none.

    Raises:
        RuntimeFailure: a model does not load or run.
    """
    model = Model.load(path)
    groups = encoded_weights(model)
    forms = _forms(groups)
    if not groups:
        return Decoding()
    ran = _ran(path, feeds)
    known = {*forms.values(), *(group.decoder for group in groups)}
    if any(_OWNER in name and name not in known for name in ran):  # another tool changed the names
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            model.write(Path(folder) / "model.onnx")
            ran = _ran(Path(folder) / "model.onnx", feeds)
    integers = {group.name for group in groups if group.fused}
    gathered = [group.name for group in groups if group.gathered]
    decoded = {group.name for group in groups if group.decoder in ran}
    each_run = [name for name in forms if name in decoded and name not in gathered]
    fused = [name for name in forms if name not in decoded and name in integers]
    folded = [name for name in forms if name not in decoded and name not in {*integers, *gathered}]
    read = {name: forms[name] for name in (*fused, *gathered)}
    changed = bool(read) and (before is None or bool(read.items() - _forms(encoded_weights(before)).items()))
    times = {}
    if dense is not None and (each_run or changed):
        times = milliseconds(one_thread(dense), one_thread(path), feeds, _SECONDS, _ROUNDS)
    return Decoding(folded, fused, each_run, gathered, times, session_entries(model) if fused else {})


def _forms(groups: Sequence[EncodedWeight]) -> dict[str, str]:
    """The encoded weights by name, with their forms."""
    return {group.name: str(group.mark) for group in groups}


def _ran(path: Path, feeds: Feeds) -> set[str]:
    """The names of the nodes that one run executes."""
    events = profile(path, lambda session: run(session, feeds))
    return {event["name"].removesuffix(KERNEL) for event in events if event.get("cat") == "Node"}


def decoding_of(path: Path, data: Path | None) -> Decoding:
    """`decoding` of a model by itself, on a sample of the data or a synthesised one, beside what it decodes to.

    Raises:
        DataError: the data does not fit, or no inputs could be synthesised.
        RuntimeFailure: ONNX Runtime does not load or run the model.
    """
    model = Model.load(path)
    if not encoded_weights(model):
        return Decoding()
    feeds = inputs_for(model, path, data, None).run
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        dense = Path(folder) / "dense.onnx"
        with_plain_weights(model, path).write(dense)
        return decoding(path, feeds, dense)
