"""Print the error of a LeNet in percent: a command for `onnxprune iterate --evaluate`.

python tools/evaluate_lenet.py MODEL.onnx [--data mnist|fashion] [--part held-out|test]

The last 5,000 training images are held out: they choose, and the test images only measure. Both
come by `python tools/fetch_models.py mnist fashion-mnist`.
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
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="the model")
    parser.add_argument("--data", choices=mnist.SETS, default="mnist", help="default mnist")
    parser.add_argument("--part", choices=("held-out", "test"), default="held-out", help="default held-out")
    options = parser.parse_args()
    if options.part == "test":
        images, labels = mnist.load("t10k", options.data)
    else:
        images, labels = (array[-mnist.HELD_OUT :] for array in mnist.load("train", options.data))
    print(f"{error_rate(options.model, images, labels):.2f}")


if __name__ == "__main__":
    main()
