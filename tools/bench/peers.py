"""What is measured: onnxprune, the other tools, and the least that any tool could do.

onnxsim and NNCodec may live in interpreters of their own: NNCodec 2.1.3 wants numpy below 2 and is built from source
(`pip install nncodec onnx 'numpy<2'` took a C++ compiler and torch, Python 3.11).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .processes import ONNXPRUNE

M = 1 << 20
SPARSITY = 0.9
LIMIT = "read once, write once"
EXACT = "onnxprune exact, 1 core"
SHARED = "onnxprune shared:4, 2 threads"
COMPRESS, ONNXSIM = "onnxprune compress", "onnxsim magnitude"

_ONNXSIM = (
    "import sys, onnx; from onnxsim.pruning import apply_magnitude_pruning as prune; "
    f"onnx.save(prune(onnx.load(sys.argv[1]), {SPARSITY}), sys.argv[2])"
)
_QUANTISE = "import sys; from onnxruntime.quantization import quantize_dynamic; quantize_dynamic(*sys.argv[1:3])"
_NNCODEC = f"""
import os, sys, numpy, onnx
from nncodec.nn import encode
held = {{}}
for tensor in onnx.load(sys.argv[1]).graph.initializer:
    array = held[tensor.name] = onnx.numpy_helper.to_array(tensor).copy()
    if array.ndim > 1:
        far = numpy.abs(array)
        cut = round({SPARSITY} * array.size) - 1
        array[far <= numpy.partition(far, cut, None)[cut]] = 0
bits = encode(held, {{"verbose": False, "results": os.path.dirname(sys.argv[2])}})
os.remove(os.path.join(os.path.dirname(sys.argv[2]), "dNN_epoch0_qp_-32_bitstream.nnc"))
open(sys.argv[2], "wb").write(bits)
"""
_ZSTD = "import sys, zstandard; zstandard.ZstdCompressor(3).copy_stream(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
_LIMIT = """
import os, sys
left, piece = int(sys.argv[3]), memoryview(bytearray(8 << 20))
with open(sys.argv[1], "rb", 0) as source, open(sys.argv[2], "wb", 0) as target:
    while read := source.readinto(piece):
        left -= target.write(piece[:min(read, left)])
    os.fsync(target.fileno())
"""


@dataclass(frozen=True)
class Tool:
    """A command to measure.

    Attributes:
        name: how the results call it.
        command: `{in}` is the model, `{data}` the file with its weights, `{out}` the output, `{bytes}` how many
            `LIMIT` writes.
        version: a command that prints one; it fails where the tool is not installed.
        to_stdout: the output is what it prints.
        loads: ONNX Runtime loads the output.
        one_core: bound to one core.
        most: weights up to which it is run: beyond, it takes minutes or more memory than there is.
    """

    name: str
    command: tuple[str, ...]
    version: tuple[str, ...]
    to_stdout: bool = False
    loads: bool = True
    one_core: bool = False
    most: float = float("inf")

    @property
    def own(self) -> bool:
        """Whether it is onnxprune."""
        return self.name.startswith("onnxprune")

    def filled(self, given: Mapping[str, object]) -> list[str]:
        """The command with what is given for `{in}`, `{data}`, `{out}` and `{bytes}`."""
        return [str(given.get(part, part)) for part in self.command]

    def installed(self) -> str:
        """Its version, or '' where it is not installed."""
        if shutil.which(self.version[0]) is None:
            return ""
        done = subprocess.run(self.version, capture_output=True, text=True, check=False)
        number = re.search(r"\d+(\.\d+)+", done.stdout)
        return "" if done.returncode else number[0] if number else "installed"


def compress(name: str, *options: str, one_core: bool = False, most: float = float("inf")) -> Tool:
    """`onnxprune compress` at the sparsity of the scoreboard."""
    rule = ("--sparsity", str(SPARSITY), "--no-verify", "--quiet")
    command = (*ONNXPRUNE, "compress", "{in}", "-o", "{out}", *rule, *options)
    return Tool(name, command, _version(sys.executable, "onnxprune"), one_core=one_core, most=most)


def own(full: float) -> list[Tool]:
    """Our own tool in its forms; up to `full` weights all four, beyond that one of each."""
    exact, shared = ("--values", "exact", "--jobs"), ("--values", "shared:4", "--jobs")
    return [
        compress(EXACT, *exact, "1", one_core=True),
        compress("onnxprune exact, 2 threads", *exact, "2", most=full),
        compress("onnxprune shared:4, 1 core", *shared, "1", one_core=True, most=full),
        compress(SHARED, *shared, "2"),
    ]


def limit() -> Tool:
    """Read the weights in pieces of 8 MB, write as many bytes as onnxprune did, flush them to the disk."""
    here = (sys.executable, "-S", "-c")
    return Tool(LIMIT, (*here, _LIMIT, "{data}", "{out}", "{bytes}"), (*here, ""), loads=False)


def gzip() -> Tool:
    """Compress the file of the weights as every system can."""
    command, version = ("gzip", "-6", "-c", "{data}"), ("gzip", "--version")
    return Tool("gzip -6", command, version, to_stdout=True, loads=False, most=256 * M)


def others(pythons: Sequence[str]) -> list[Tool]:
    """The peers, each in the first of the interpreters that has it."""
    here = sys.executable

    def home(module: str) -> str:
        probes = (python for python in pythons if Tool("", (), _version(python, module)).installed())
        return next(probes, here)

    sim, codec = home("onnxsim.pruning"), home("nncodec.nn")
    zstd = ("zstd", "-3", "-q", "-c") if shutil.which("zstd") else (here, "-c", _ZSTD)
    zstd_version = ("zstd", "--version") if shutil.which("zstd") else _version(here, "zstandard")
    return [
        Tool(ONNXSIM, (sim, "-c", _ONNXSIM, "{in}", "{out}"), _version(sim, "onnxsim.pruning"), most=256 * M),
        DYNAMIC,
        Tool("NNCodec qp -32", (codec, "-c", _NNCODEC, "{in}", "{out}"), _version(codec, "nncodec.nn"), loads=False,
             most=8 * M),
        gzip(),
        Tool("zstd -3", (*zstd, "{data}"), zstd_version, to_stdout=True, loads=False, most=1024 * M),
    ]  # fmt: skip


def there(tools: Sequence[Tool]) -> list[tuple[Tool, str]]:
    """Each with its version, or '' where it is not installed."""
    return [(tool, tool.installed()) for tool in tools]


def versions(tools: Sequence[tuple[Tool, str]]) -> dict[str, str]:
    """Those of the peers that are there, by name."""
    return {tool.name: version for tool, version in tools if version and not tool.own and tool.name != LIMIT}


def _version(python: str, module: str) -> tuple[str, ...]:
    """Import the module and print the version of its package."""
    package = module.partition(".")[0]
    python = os.fspath(python)
    return (python, "-c", f"import {module}; from importlib.metadata import version; print(version('{package}'))")


DYNAMIC = Tool(
    "onnxruntime quantize_dynamic",
    (sys.executable, "-c", _QUANTISE, "{in}", "{out}"),
    _version(sys.executable, "onnxruntime.quantization"),
    most=256 * M,
)
