"""What a file is that is not what was asked for, by its first bytes."""

from __future__ import annotations

from pathlib import Path

PACKED = b"\x89ONNXZ\r\n"  # what a packed model begins with; not text, and damaged by whoever takes it for text
_HEAD = 64

# (offset, bytes, what begins so, what to do about it)
_MODELS = (
    (0, PACKED, "a packed model", "`onnxprune unpack` restores the model"),
    (4, b"ORTM", "in ONNX Runtime's .ort format", "start from the .onnx file that it was converted from"),
    (4, b"TFL3", "a TFLite model", "convert it to ONNX first"),
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (0, b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (0, b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (0, b"PK\x03\x04", "a zip archive (so are checkpoints of PyTorch)", "unpack it, or export the model to ONNX"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "`git lfs pull` brings it"),
    (0, b"\x89HDF", "an HDF5 file", "export the model to ONNX first"),
    (0, b"GGUF", "a GGUF model", "start from the model that it was converted from"),
    (0, b"\x80\x02", "a pickle", "export the model to ONNX first"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself"),
)


def head(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read, or is none (a pipe would be waited for)."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def no_model(path: Path) -> str:
    """What a file is that is no ONNX model, with what to do about it; empty where that is not known."""
    start = head(path)
    found = (f"{what}: {advice}" for at, magic, what, advice in _MODELS if start[at:].startswith(magic))
    return next(found, "")


def no_arrays(path: Path) -> str:
    """What a file is that is neither .npz nor .npy; empty where it is one of them and damaged."""
    start = head(path)
    if start[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
        return "a pickle, which could run code"
    if start[:4] in (b"PAR1", b"ARRO") or path.suffix == ".parquet":
        return "a table in columns"
    if start and all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "text"
    return "" if start.startswith((b"PK", b"\x93NUMPY")) else "of another kind"
