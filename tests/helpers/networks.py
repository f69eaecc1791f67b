"""Networks in torch that hold what exporters rename, transpose, merge, split and fold."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn


class Attention(nn.Module):
    """A transformer block as nn.MultiheadAttention keeps it (one in_proj) or as most models do (q, k and v)."""

    def __init__(self, merged: bool, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True) if merged else None
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3)) if not merged else (None,) * 3
        self.norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        if self.attention is not None:
            x = x + self.attention(x, x, x, need_weights=False)[0]
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
            x = x + torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v
        return self.head(self.norm(x + self.feed(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(24, 32, batch_first=True)
        self.head = nn.Linear(32, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in eval mode, as if trained (no tensor is constant), and an input for it."""
    torch.manual_seed(0)
    networks = {
        "mlp": lambda: nn.Sequential(nn.Linear(40, 64, bias=False), nn.GELU(), nn.Linear(64, 30)),
        "conv": lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4),
            nn.BatchNorm2d(16, eps=1e-3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3), nn.Flatten(), nn.Linear(512, 10),
        ),
        "merged": lambda: Attention(merged=True),
        "separate": lambda: Attention(merged=False),
        "lstm": Recurrent,
    }  # fmt: skip
    inputs = {"mlp": (2, 5, 40), "conv": (2, 3, 10, 10), "lstm": (1, 7, 24)}
    net = networks[name]()
    wander(net)
    tokens = torch.randint(0, 50, (2, 9))
    return net.eval(), torch.randn(inputs[name]) if name in inputs else tokens


def wander(net: nn.Module, seed: int = 1) -> None:
    """Move every parameter and statistic, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1:
                tensor.abs_().add_(0.05)  # a variance stays positive
                tensor *= 1 if seed % 2 else 1.5


def export(net: nn.Module, x: torch.Tensor, path: Path, dynamo: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        torch.onnx.export(net, (x,), str(path), input_names=["x"], dynamo=dynamo)
    return path
