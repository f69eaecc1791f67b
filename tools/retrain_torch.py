"""Retrain a pruned LeNet in torch: a command for `onnxprune iterate --retrain`, to be copied.

python tools/retrain_torch.py --model pruned.onnx --masks masks.safetensors --out new.safetensors

The recipe: Adam, a cosine rate, varied images, averaged weights. That of Han et al. 2015:
`--optimizer sgd --dropout 0.5`, `--freeze conv` while linear layers learn.
"""

from __future__ import annotations

import argparse
import math
from collections import OrderedDict
from pathlib import Path

import mnist
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import nn

from onnxprune.integrations.torch import apply

MIN_TERNARY = 1 << 12  # weights of a linear layer: onnxruntime has no kernel for the integers of smaller ones
RATES = {"adam": 2e-3, "sgd": 5e-3}  # the second is a tenth of what train_lenet.py takes


class TernaryLinear(nn.Linear):
    """A layer of weights -s, 0 and s, with an s for each output and block of inputs (Li and Liu 2016).

    The forward pass rounds, and the gradient goes to what was rounded as if it had not been.
    """

    block = 64

    def rounded(self) -> torch.Tensor:
        """The weights that the layer multiplies with; each s is a float16."""
        short = -self.in_features % self.block
        blocks = nn.functional.pad(self.weight, (0, short)).unflatten(1, (-1, self.block))
        size = blocks.detach().abs()
        counted = (size > 0).sum(-1, keepdim=True).clamp(min=1)  # pruned weights are none
        large = size > 0.7 * size.sum(-1, keepdim=True) / counted
        scale = (size * large).sum(-1, keepdim=True) / large.sum(-1, keepdim=True).clamp(min=1)
        scale = scale * (scale >= torch.finfo(torch.float16).tiny)  # pixels of the border train nothing
        return (blocks.detach().sign() * large * scale.half().float()).flatten(1)[:, : self.in_features]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, with the bias."""
        return nn.functional.linear(x, self.weight + (self.rounded() - self.weight).detach(), self.bias)


def network(path: Path, dropout: float, ternary: int = 0) -> nn.Sequential:
    """The model as a torch module whose parameters have the names of the ONNX initializers.

    Dropout behind a linear layer is `dropout` * sqrt(connections kept / connections), so that it shrinks with the
    capacity. Large linear layers are ternary, in blocks of so many inputs, unless that is 0.
    """
    graph = onnx.load(path).graph
    weights = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    drop = 0.0
    for node in graph.node:
        name = node.input[1].removesuffix(".weight") if len(node.input) > 1 else node.output[0].replace(".", "_")
        if node.op_type == "Gemm":
            out, inputs = weights[node.input[1]].shape
            layers[name] = (TernaryLinear if ternary and out * inputs >= MIN_TERNARY else nn.Linear)(inputs, out)
            drop = dropout * math.sqrt(np.count_nonzero(weights[node.input[1]]) / (out * inputs))
        elif node.op_type == "Conv":
            out, inputs, height, width = weights[node.input[1]].shape
            layers[name] = nn.Conv2d(inputs, out, (height, width))
        elif node.op_type == "Relu":
            layers[name] = nn.Sequential(nn.ReLU(), nn.Dropout(drop))
        else:
            layers[name] = {"MaxPool": nn.MaxPool2d(2), "Flatten": nn.Flatten()}[node.op_type]
    TernaryLinear.block = ternary
    net = nn.Sequential(layers)
    net.load_state_dict(weights)
    return net.to(memory_format=torch.channels_last)


def error_rate(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of wrong answers, in percent."""
    net.eval()
    with torch.no_grad():
        answers = torch.cat([net(piece).argmax(1) for piece in images.split(1000)])
    return 100 * float((answers != labels).float().mean())


def train(net: nn.Module, masks: Path, options: argparse.Namespace) -> float:
    """Train under the masks: surviving weights go on from where they are, the net keeps the averaged ones.

    Han et al. 2015 train at a tenth of the original rate and shrink dropout with the connections; Adam, varied images
    and the average of the weights over the last steps reached more (docs/retraining.md).

    Returns:
        The held-out error, in percent.
    """
    images, labels = mnist.load("train", options.data)
    fit, targets = images[: -mnist.HELD_OUT], torch.from_numpy(labels[: -mnist.HELD_OUT])
    frozen = {"none": (), "conv": (nn.Conv2d,), "fc": (nn.Linear,)}[options.freeze]
    for module in net.modules():
        if isinstance(module, frozen):
            module.requires_grad_(False)
    masked = apply(net, masks)
    learned = [p for p in net.parameters() if p.requires_grad]
    rate = options.rate or RATES[options.optimizer]
    if options.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(learned, rate, weight_decay=options.l2)
    else:
        optimizer = torch.optim.SGD(learned, rate, momentum=0.9, nesterov=True, weight_decay=options.l2)
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    steps = options.epochs * (len(fit) // options.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    rng = np.random.default_rng(options.seed)
    for epoch in range(options.epochs):
        net.train()
        varied = torch.from_numpy(mnist.vary(fit, options.vary, rng))
        for batch in torch.randperm(len(fit))[: len(fit) // options.batch * options.batch].split(options.batch):
            loss = nn.functional.cross_entropy(net(varied[batch]), targets[batch])
            if options.l1:
                loss = loss + options.l1 * sum(p.abs().sum() for p in learned if p.dim() > 1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(net)
        print(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}", flush=True)
    net.load_state_dict(averaged.module.state_dict())
    for module in net.modules():
        if isinstance(module, TernaryLinear):
            module.weight.data = module.rounded()
    masked.check()
    return error_rate(net, *(torch.from_numpy(a[-mnist.HELD_OUT :]) for a in (images, labels)))


def main() -> None:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="the pruned model (required)")
    parser.add_argument("--masks", type=Path, required=True, metavar="FILE", help="its masks (required)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the weights to write (required)")
    parser.add_argument("--data", choices=mnist.SETS, default="mnist", metavar="SET", help="mnist (default) or fashion")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="default 20")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="default 128")
    parser.add_argument("--optimizer", choices=RATES, default="adam", metavar="NAME", help="adam (default) or sgd")
    parser.add_argument("--rate", type=float, help="the highest; default 0.002 with adam, 0.005 with sgd")
    parser.add_argument("--l2", type=float, default=1e-4, help="weight decay (default 0.0001)")
    parser.add_argument("--l1", type=float, default=0.0, help="of weights, not of biases (default 0)")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="P", help="of the dense network (default 0)")
    parser.add_argument("--freeze", choices=("none", "conv", "fc"), default="none", metavar="KIND",
                        help="layers that do not learn: conv, fc or none (default)")  # fmt: skip
    parser.add_argument("--ternary", type=int, default=0, metavar="N", help="layers of -s, 0, s: an s per N inputs")
    parser.add_argument("--vary", type=float, default=0.5, metavar="X", help="turns, scales, shifts (default 0.5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    net = network(options.model, options.dropout, options.ternary)
    held = train(net, options.masks, options)
    print(f"held-out error {held:.2f} %")
    save_file({name: np.ascontiguousarray(p.detach().numpy()) for name, p in net.named_parameters()}, options.out)


if __name__ == "__main__":
    main()
