"""The environments: each runtime with pinned packages from the registries, in a folder of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.encodings.measured import LARGE

from .outcomes import SLOW

NUMPY = "numpy==2.4.6"
_ORT = (
    "1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1",
    "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1", "1.32.0",
)  # fmt: skip
_ARM64 = ("--only-binary=:all:", *(f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 17)))
_INT2 = "1.24"  # the first onnxruntime release that loads opset 25
_NUMPY_1 = ("1.15.1", "1.16.3", "1.17.3", "1.18.1")  # onnxruntime releases that want it


# Of runtimes whose converter or compiler takes seconds for a model.
_SLOW: dict[str, Any] = {
    "opsets": (17,), "values": ("exact", "half", "shared:4", "int8", "int4"),
    "consumers": ("MatMul", "Gemm Relu", "Conv", "LSTM", "Gather", "QDQ Conv", *LARGE),
}  # fmt: skip
_SLOWEST = _SLOW | {"consumers": ("MatMul", "Gemm Relu", "Conv", "Gather", *LARGE)}
_IREE = ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.23.2", NUMPY)
# What is computed from constants alone is left to the module's start, however much larger it is than they are.
_AT_LOAD = ("--iree-opt-const-eval=false", f"--iree-opt-const-expr-max-size-increase-threshold={1 << 40}")


@dataclass(frozen=True)
class Environment:
    """A runtime at a version.

    Attributes:
        runtime: its name, as `--target` has it.
        version: of it.
        packages: that pip installs.
        bare: packages that pip installs without what they depend on.
        node: packages that npm installs.
        adapter: the module of `adapters`.
        options: of its converter or compiler, beside the usual ones.
        opsets: at which its cases are run.
        values: value forms of its cases; () stands for all.
        consumers: layers of its cases; () stands for all.
        seconds: that a case may take.
        slow: times as long as the decoded model, beyond which a weight counts as decoded at each run.
        arm64: the root of an arm64 system, whose interpreter runs it with packages for that; None: this system.
    """

    runtime: str
    version: str
    packages: tuple[str, ...]
    bare: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    adapter: str = ""
    options: tuple[str, ...] = ()
    opsets: tuple[int, ...] = (17, 21)
    values: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    seconds: float = 120
    slow: float = SLOW
    arm64: Path | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.runtime}-{self.version}{'-arm64' if self.arm64 else ''}"

    def asks(self, consumer: str, values: str, opset: int) -> bool:
        """Whether a case is run."""
        asked = ((consumer, self.consumers), (values, self.values), (opset, self.opsets))
        return all(not some or one in some for one, some in asked)

    def python(self, folder: Path) -> Path:
        """The interpreter, in an environment that is made if it is not there."""
        place = folder / self.name
        if self.arm64:
            interpreter = next((self.arm64 / "usr" / "bin").glob("python3.*[0-9]"))
            if not place.exists():
                pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *_ARM64]
                pip += ["--python-version", interpreter.name.removeprefix("python"), "--target", str(place)]
                subprocess.run([*pip, *self.packages], check=True)
            return interpreter
        if not (place / "bin" / "python").exists():
            venv.create(place, with_pip=True)
            pip = [str(place / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.packages], check=True)
            if self.bare:
                subprocess.run([*pip, "--no-deps", *self.bare], check=True)
            if self.node:
                subprocess.run(["npm", "install", "--silent", "--prefix", str(place), *self.node], check=True)
        return place / "bin" / "python"

    def run(self, folder: Path, cases: Path, out: Path, under: Sequence[str] = ()) -> None:
        """Measure the cases of a list, see `runner`; `under`: the command that runs the interpreter, as an emulator."""
        arguments = (self.adapter or self.runtime, str(cases), str(out), str(self.seconds))
        self.call(folder, "runner.py", *arguments, under=under)

    def call(self, folder: Path, script: str, *arguments: str, under: Sequence[str] = ()) -> None:
        """Run a script of this package in the environment, on one thread."""
        settings = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"}
        settings |= {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
        settings |= {"PYTHONPATH": str(folder / self.name)} if self.arm64 else {}
        settings |= {"NODE_PACKAGES": str(folder / self.name), "COMPILER_OPTIONS": shlex.join(self.options)}
        command = [*under, str(self.python(folder)), str(Path(__file__).with_name(script)), *arguments]
        subprocess.run(command, env=settings, check=True, stdout=sys.stderr)


ENVIRONMENTS = [
    *(
        Environment(
            "onnxruntime", version, (f"onnxruntime=={version}", "numpy==1.26.4" if version in _NUMPY_1 else NUMPY),
            opsets=(11, 17, 21) if version < _INT2 else (11, 17, 21, 25),
        )
        for version in _ORT
    ),
    Environment("onnxruntime-web", "1.30.0", (NUMPY,), node=("onnxruntime-web@1.30.0",), adapter="web", slow=3.0),
    Environment(
        "ort-format", "1.32.0", ("onnxruntime==1.32.0", "onnx==1.23.2", NUMPY), adapter="ort_format"
    ),
    Environment("openvino", "2026.4.1", ("openvino==2026.4.1", NUMPY)),
    Environment("opencv", "5.0.0.93", ("opencv-python-headless==5.0.0.93", NUMPY)),
    Environment("tract", "0.23.9", ("tract==0.23.9", NUMPY)),
    Environment("mnn", "3.6.1", ("mnn==3.6.1", NUMPY), **_SLOW),
    Environment("ncnn", "1.0.20261020", ("ncnn==1.0.20261020", NUMPY), bare=("pnnx==20261020",), **_SLOW),
    Environment("tvm", "0.27.0.post1", ("apache-tvm==0.27.0.post1", "onnx==1.23.2", NUMPY), **_SLOW),
    Environment("iree", "3.13.0", _IREE, **_SLOWEST),
    Environment("iree-at-load", "3.13.0", _IREE, adapter="iree", options=_AT_LOAD, **_SLOWEST),
    Environment(
        "litert", "2.1.0",
        ("onnx2tf==1.29.24", "tensorflow==2.19.0", "ai-edge-litert==2.1.0", "onnx==1.19.1", "onnxruntime==1.23.0",
         "onnx_graphsurgeon==0.5.8", "onnxsim==0.4.36", "sng4onnx==2.0.1", "sne4onnx==2.0.1", "tf_keras==2.19.0",
         "psutil", "simple_onnx_processing_tools==1.1.32"),
        **_SLOWEST, seconds=600,
    ),
]  # fmt: skip
GRAPH_TOOLS = Environment(
    "graph-tools", "2026-11-29",
    ("onnx==1.23.2", "onnxruntime==1.32.0", "onnxsim==0.8.1", "onnxslim==0.1.98", "onnxoptimizer==0.4.2",
     "onnxconverter-common==1.16.0", "sympy==1.14.0", NUMPY),
)  # fmt: skip
