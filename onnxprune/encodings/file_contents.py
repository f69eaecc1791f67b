"""What the bytes of a model file are: weights, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxprune.model.encoded_names import prefixes
from onnxprune.model.model import Model
from onnxprune.model.protobuf import varint

# Keys of a node's metadata that ONNX Runtime reads: to which device it gives the node.
_READ = frozenset({"layer_ann"})
MUCH = 0.25  # of a file: from here on it is worth a word what it holds beside weights


def annotated(proto: ModelProto) -> Iterator[Message]:
    """Every entry of the model that may have a doc string or metadata that no runtime reads."""
    handed_out = interface(proto)  # held: entries are told apart by identity
    spared = set(map(id, handed_out))
    waiting: list[Message] = [proto]
    while waiting:
        message = waiting.pop()
        if id(message) not in spared:
            yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE and field.name != "metadata_props":
                waiting += [value] if isinstance(value, Message) else value


def interface(proto: ModelProto) -> list[Message]:
    """The entries whose doc strings and metadata ONNX Runtime hands to callers, or that describe what they give."""
    return [proto, proto.graph, *proto.graph.input, *proto.graph.output]


def notes_nbytes(message: Message) -> int:
    """Bytes that the doc string and the metadata of an entry take in the file."""
    total = 0
    for field, value in message.ListFields():
        if field.name == "doc_string":
            total += _field(value.encode() if isinstance(value, str) else value)
        elif field.name == "metadata_props":
            total += sum(_field(entry.SerializeToString()) for entry in value if entry.key not in _READ)
    return total


def drop_notes(message: Message) -> None:
    """Clear what `notes_nbytes` counts."""
    for field, value in message.ListFields():
        if field.name == "doc_string":
            message.ClearField("doc_string")
        elif field.name == "metadata_props":
            for place in reversed([n for n, entry in enumerate(value) if entry.key not in _READ]):
                del value[place]


def _field(data: bytes) -> int:
    """Bytes of a field with this content."""
    return 1 + len(varint(len(data))) + len(data)


def file_contents(model: Model, weights: Mapping[str, int], kinds: Mapping[str, str], total: int) -> dict[str, int]:
    """Bytes by what they are; together they are the file and its external data, but for bytes of lengths in weights.

    Args:
        model: the model, as it was written.
        weights: bytes of each weight, what decodes it included.
        kinds: kind of each weight, as `find` tells it of the dense model.
        total: bytes of the files.

    Returns:
        `weights` (all but embeddings), `embeddings`, `nodes` (with small constants, types and shapes), `names`,
        `metadata` that `drop_notes` drops, and `interface`: notes that ONNX Runtime hands to callers.
    """
    found = dict.fromkeys(("weights", "embeddings", "nodes", "names", "metadata", "interface"), 0)

    def kind(name: str) -> str:
        return "embeddings" if kinds.get(name) == "embedding" else "weights"

    for name, size in weights.items():
        found[kind(name)] += size
    found["interface"] = sum(map(notes_nbytes, interface(model.proto)))
    parts = tuple(prefix.rpartition("/")[2] for prefix in prefixes(model.proto))
    for message in annotated(model.proto):
        notes = notes_nbytes(message)
        found["metadata"] += notes
        if isinstance(message, TensorProto) and message.name in weights:
            found[kind(message.name)] -= notes
        if isinstance(message, NodeProto) and not (parts and any(n.startswith(parts) for n in message.output)):
            names = (message.name, *message.input, *message.output)
            found["names"] += sum(_field(name.encode()) for name in names if name)
        elif isinstance(message, ValueInfoProto) and not (parts and message.name.startswith(parts)):
            found["names"] += _field(message.name.encode())
    found["nodes"] = max(0, total - sum(found.values()))
    return found
