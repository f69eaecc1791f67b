"""Print the error in percent of a LeNet on the held-out training images: what `onnxprune iterate --evaluate` reads.

python tools/evaluate_lenet.py model.onnx --data mnist --part held-out

`--part test` measures on the test images, which choose nothing.
"""

from __future__ import annotations

import argparse

import mnist
import numpy as np

import onnxprune


def error_rate(model: str, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of wrong answers, in percent, in ONNX Runtime."""
    session = onnxprune.session(model)
    pieces = [images[start : start + 1000] for start in range(0, len(images), 1000)]
    scores = np.concatenate([session.run(None, {session.get_inputs()[0].name: piece})[0] for piece in pieces])
    return 100 * float((scores.argmax(1) != labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", choices=mnist.SETS, default="mnist")
    parser.add_argument("--part", choices=("held-out", "test"), default="held-out")
    options = parser.parse_args()
    if options.part == "test":
        images, labels = mnist.load("t10k", options.data)
    else:
        images, labels = (array[-mnist.HELD_OUT :] for array in mnist.load("train", options.data))
    print(f"{error_rate(options.model, images, labels):.2f}")


if __name__ == "__main__":
    main()
