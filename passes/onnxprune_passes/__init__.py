"""The passes that come with onnxprune: one file each, and this table."""

from onnxprune.pipeline.base import Pass
from onnxprune_passes.activations import Activations as Activations
from onnxprune_passes.apply_masks import ApplyMasks as ApplyMasks
from onnxprune_passes.channels import Channels as Channels
from onnxprune_passes.dead_neurons import DeadNeurons as DeadNeurons
from onnxprune_passes.decode import Decode as Decode
from onnxprune_passes.encode import Encode as Encode
from onnxprune_passes.fold import Fold as Fold
from onnxprune_passes.freeze import Freeze as Freeze
from onnxprune_passes.magnitude import Magnitude as Magnitude
from onnxprune_passes.strip_metadata import StripMetadata as StripMetadata
from onnxprune_passes.update import Update as Update

_KINDS: tuple[type[Pass], ...] = (
    Magnitude, Channels, DeadNeurons, Activations, Encode, Decode, ApplyMasks, Update, StripMetadata, Freeze, Fold
)  # fmt: skip
PASSES: dict[str, type[Pass]] = {kind.name: kind for kind in _KINDS}
