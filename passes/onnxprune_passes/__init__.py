"""The passes that come with onnxprune: one file each, and this table."""

from onnxprune.pipeline.base import Pass
from onnxprune_passes.apply_masks import ApplyMasks
from onnxprune_passes.channels import Channels
from onnxprune_passes.dead_neurons import DeadNeurons
from onnxprune_passes.decode import Decode
from onnxprune_passes.encode import Encode
from onnxprune_passes.magnitude import Magnitude
from onnxprune_passes.update import Update

__all__ = ["PASSES", "ApplyMasks", "Channels", "DeadNeurons", "Decode", "Encode", "Magnitude", "Update"]

PASSES: dict[str, type[Pass]] = {
    kind.name: kind for kind in (Magnitude, Channels, DeadNeurons, Encode, Decode, ApplyMasks, Update)
}
