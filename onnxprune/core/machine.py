"""The machine under ONNX Runtime: what its kernels ask of the processor, and memory that goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from pathlib import Path

CHANNELS = 4  # at once: a convolution of any other number of them runs without the kernels for blocks of channels
_WANTED = {"x86_64": "avx2", "AMD64": "avx2", "aarch64": "asimddp"}  # by the names of Linux


def has_integer_kernels(info: Path = Path("/proc/cpuinfo"), machine: str = "") -> bool:
    """Whether ONNX Runtime has kernels for integers in front of MatMul here: they want AVX2, or ARM's dot products.

    Elsewhere each run decodes such a weight, as `tools/bench kernels --emulated` shows. A system that does not tell
    what it has counts as one that has them.

    Args:
        info: where Linux says what the processor has.
        machine: what `platform.machine` says; "" asks it.
    """
    wanted = _WANTED.get(machine or platform.machine())
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    told = [line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")]
    return wanted is None or not told or all(wanted in flags for flags in told)


def release_memory() -> None:
    """Give what was freed back to the system, where the C library keeps it for later: glibc keeps large blocks too."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other libraries, other systems
        ctypes.CDLL(None).malloc_trim(0)
