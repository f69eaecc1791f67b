"""Train a LeNet of Han et al. 2015 on MNIST or Fashion-MNIST with torch, and export it to ONNX.

python tools/train_lenet.py lenet-300-100 -o models/lenet-300-100.onnx

lenet-300-100 has two hidden layers (266,610 parameters); lenet-5 is the Caffe variant, without a
nonlinearity behind the convolutions (431,080 parameters). The last 5,000 training images are held
out: they choose the epoch, and the test images only measure. It needs the train extra and
`python tools/fetch_models.py mnist fashion-mnist`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import mnist
import torch
from torch import nn


def lenet_300_100() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet_5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


NETS = {"lenet-300-100": lenet_300_100, "lenet-5": lenet_5}


def error_rate(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of wrong answers, in percent."""
    net.eval()
    with torch.no_grad():
        wrong = sum(
            int((net(x).argmax(1) != y).sum()) for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
    return 100 * wrong / len(labels)


def train(net: nn.Module, data: str, epochs: int, rate: float, l1: float, l2: float) -> float:
    """Train with SGD, momentum, L1, L2 and a cosine rate; the net keeps the weights of its best epoch.

    Args:
        net: the network, trained in place.
        data: a key of `mnist.SETS`.
        epochs: how many.
        rate: the highest learning rate.
        l1: penalty of weights, not of biases.
        l2: weight decay.

    Returns:
        The lowest held-out error, in percent.
    """
    images, labels = (torch.from_numpy(a) for a in mnist.load("train", data))
    fit, held = slice(None, -mnist.HELD_OUT), slice(-mnist.HELD_OUT, None)
    count = len(labels) - mnist.HELD_OUT
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=l2, nesterov=True)
    best, kept = math.inf, net.state_dict()
    for epoch in range(epochs):
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * epoch / epochs))
        for batch in torch.randperm(count).split(64):
            loss = nn.functional.cross_entropy(net(images[fit][batch]), labels[fit][batch])
            if l1:
                loss = loss + l1 * sum(p.abs().sum() for p in net.parameters() if p.dim() > 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        error = error_rate(net, images[held], labels[held])
        print(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}  held-out error {error:.2f} %", flush=True)
        if error <= best:
            best, kept = error, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", choices=NETS, metavar="NET", help=f"one of {', '.join(NETS)}")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the model to write (required)")
    parser.add_argument("--data", choices=mnist.SETS, default="mnist", help="default mnist")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="default 30")
    parser.add_argument("--rate", type=float, default=0.05, help="the highest learning rate (default 0.05)")
    parser.add_argument("--l2", type=float, default=5e-4, help="weight decay (default 0.0005)")
    parser.add_argument("--l1", type=float, default=0.0, help="of weights, not of biases (default 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    net = NETS[options.net]()
    held = train(net, options.data, options.epochs, options.rate, options.l1, options.l2)
    test = error_rate(net, *(torch.from_numpy(a) for a in mnist.load("t10k", options.data)))
    print(f"{options.net}: held-out error {held:.2f} %, test error {test:.2f} %")
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 1, 28, 28),),
        str(options.out),
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
