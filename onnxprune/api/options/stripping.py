"""The options that change shapes, and what goes that no output needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnxprune.api.options.objects import Calibration
from onnxprune.core.machine import CHANNELS
from onnxprune.errors import OptionError
from onnxprune.pipeline.base import Pass, check_types
from onnxprune_passes import Channels, DeadNeurons, Decode, Freeze, StripMetadata


@dataclass(frozen=True, kw_only=True)
class Stripping:
    """Which shapes change, and what else goes that no output needs.

    Attributes:
        strip: whether dead neurons are removed.
        channels: the share of whole channels that is removed first, of each family; "PATTERN=SHARE" for single ones.
        speed_up: how many times as fast a run is to become by removing channels; in place of their shares.
        multiple: the numbers of channels that stay are rounded up to a multiple of this, with dead ones too; None: to
            one of 4 behind convolutions.
        strip_metadata: whether doc strings and metadata go that no runtime reads.
        freeze: whether initializers that are inputs, which a caller may override, are so no longer.

    Raises:
        OptionError: channels are to go, and all shapes to stay; what says how many contradicts itself or is no number.
    """

    strip: bool = True
    channels: float | str | tuple[float | str, ...] | None = None
    speed_up: float | None = None
    multiple: int | None = None
    strip_metadata: bool = False
    freeze: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        for name, given in (("channels", self.channels), ("speed-up", self.speed_up)):
            if given is not None and not self.strip:
                raise OptionError(f"{name} changes shapes, no-strip leaves them alone: give one")
        if self.channels is not None and self.speed_up is not None:
            raise OptionError("channels says which shares go, speed-up looks for them: give one")
        if self.speed_up is not None and not 1 < self.speed_up < math.inf:
            raise OptionError(f"speed-up must be a number above 1, not {self.speed_up:g}")
        _ = self._share  # it is checked

    @property
    def _entries(self) -> tuple[float | str, ...]:
        """What `channels` says, entry by entry."""
        held = () if self.channels is None else self.channels
        return held if isinstance(held, tuple) else (held,)

    @property
    def _by_weight(self) -> tuple[str, ...]:
        return tuple(entry for entry in self._entries if isinstance(entry, str) and "=" in entry)

    @property
    def _share(self) -> float:
        """The share of families that no pattern names."""
        plain = [entry for entry in self._entries if not isinstance(entry, str) or "=" not in entry]
        if len(plain) > 1:
            raise OptionError(f"channels {plain[0]} and {plain[1]} contradict each other: give one, and PATTERN=SHARE")
        try:
            return float(plain[0]) if plain else 0.0
        except ValueError:
            raise OptionError(f"channels '{plain[0]}' must be a number, or PATTERN=SHARE") from None

    def first(self) -> list[Pass]:
        """What runs before all others: encoded weights are dense, and take over what is left of their notes."""
        notes = [StripMetadata()] if self.strip_metadata else []
        return [Decode(), *([Freeze()] if self.freeze else []), *notes]

    def before(self, calibration: Calibration, score: str = "", scope: str = "layer") -> list[Channels]:
        """What runs before weights are pruned.

        Args:
            calibration: samples to record on what reads the channels.
            score: the pass's, as `scope`.
            scope: what the share is taken over.

        Raises:
            OptionError: the options of the pass make no sense, or a speed-up lacks data.
        """
        if self.speed_up is not None:
            if calibration.data is None:
                raise OptionError("speed-up goes by what layers miss, which is measured on samples: give data")
            if score not in ("", "obs") or scope != "layer":
                raise OptionError("speed-up says which channels go: leave out score and scope")
        return [] if self.channels is None else [self.removal(calibration, score, scope)]

    def sharing(self, shares: tuple[str, ...]) -> Stripping:
        """The same with the shares that were found for a speed-up."""
        return replace(self, channels=shares or None, speed_up=None)

    def removal(self, calibration: Calibration, score: str = "", scope: str = "layer") -> Channels:
        """The pass that removes channels; see `before`."""
        samples = Channels.samples if calibration.samples is None else calibration.samples
        multiple, convolutions = self._multiples
        return Channels(
            sparsity=self._share, set=self._by_weight, score=score, scope=scope, multiple=multiple,
            convolutions=convolutions, data=calibration.path, samples=samples, half=calibration.half,
        )  # fmt: skip

    def after(self, *, encoded: bool) -> list[DeadNeurons]:
        """What runs after weights were pruned; `encoded` is the pass's."""
        multiple, convolutions = self._multiples
        dead = DeadNeurons(encoded=encoded, multiple=multiple, convolutions=convolutions)
        return [dead] if self.strip else []

    @property
    def _multiples(self) -> tuple[int, int]:
        """Of all layers, and of convolutions."""
        return (1, CHANNELS) if self.multiple is None else (self.multiple, 1)
