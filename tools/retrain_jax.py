"""Retrain a pruned LeNet in jax and optax: a command for `onnxprune iterate --retrain`, to be copied.

python tools/retrain_jax.py --model pruned.onnx --masks masks.safetensors --out new.safetensors

The recipe is that of retrain_torch.py: Adam, a cosine rate, varied images, averaged weights.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import mnist
import numpy as np
import onnx
import optax
from onnx import numpy_helper
from safetensors.numpy import save_file

from onnxprune.integrations.jax import apply, check, masked

Params = dict[str, jax.Array]
RATES = {"adam": 2e-3, "sgd": 5e-3}  # the second is a tenth of what train_lenet.py takes


def network(path: Path, dropout: float) -> tuple[Params, Callable[..., jax.Array]]:
    """The parameters by the names of the ONNX initializers, and the function (params, images, key) -> scores.

    With a key, dropout behind a linear layer is `dropout` * sqrt(connections kept / connections), so that it shrinks
    with the capacity.
    """
    graph = onnx.load(path).graph
    params = {i.name: jnp.asarray(numpy_helper.to_array(i)) for i in graph.initializer}
    density = {name: float(jnp.mean(value != 0)) for name, value in params.items()}

    def scores(params: Params, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        drop = 0.0
        for number, node in enumerate(graph.node):
            weight, bias = (params[name] for name in node.input[1:]) if len(node.input) > 1 else (None, None)
            if node.op_type == "Gemm":
                x, drop = x @ weight.T + bias, dropout * math.sqrt(density[node.input[1]])
            elif node.op_type == "Conv":
                x = jax.lax.conv(x, weight, (1, 1), "VALID") + bias[:, None, None]
            elif node.op_type == "MaxPool":
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            elif node.op_type == "Flatten":
                x = x.reshape(len(x), -1)
            elif node.op_type == "Relu":
                x = jax.nn.relu(x)
                if key is not None and drop:
                    x *= jax.random.bernoulli(jax.random.fold_in(key, number), 1 - drop, x.shape) / (1 - drop)
            else:
                raise ValueError(f"{path}: no layer of a LeNet is a {node.op_type}")
        return x

    return params, scores


def train(params: Params, scores: Callable[..., jax.Array], options: argparse.Namespace) -> tuple[Params, float]:
    """Train under the masks; returns the averaged weights and the held-out error in percent."""
    images, labels = mnist.load("train", options.data)
    fit, targets = images[: -mnist.HELD_OUT], labels[: -mnist.HELD_OUT]
    steps = options.epochs * (len(fit) // options.batch)
    kind = {name: "conv" if np.ndim(params[f"{name.rpartition('.')[0]}.weight"]) == 4 else "fc" for name in params}
    rate = options.rate or RATES[options.optimizer]
    schedule = optax.warmup_cosine_decay_schedule(0, rate, min(200, steps // 4), steps)
    optimizer = optax.chain(
        optax.add_decayed_weights(options.l2),
        optax.adam(schedule) if options.optimizer == "adam" else optax.sgd(schedule, 0.9, nesterov=True),
        optax.masked(optax.set_to_zero(), {name: k == options.freeze for name, k in kind.items()}),
        masked(options.masks),
    )
    params = averaged = apply(params, options.masks)
    state = optimizer.init(params)

    def loss_of(params: Params, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        loss = optax.softmax_cross_entropy_with_integer_labels(scores(params, x, key), y).mean()
        return loss + options.l1 * sum(jnp.abs(value).sum() for value in params.values() if value.ndim > 1)

    @jax.jit
    def step(params: Params, averaged: Params, state: optax.OptState, x: jax.Array, y: jax.Array, key: jax.Array):
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y, key)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, averaged, 0.002), state, loss

    rng, key = np.random.default_rng(options.seed), jax.random.key(options.seed)
    for epoch in range(options.epochs):
        varied = mnist.vary(fit, options.vary, rng)
        for batch in rng.permutation(len(fit))[: len(fit) // options.batch * options.batch].reshape(-1, options.batch):
            key, drawn = jax.random.split(key)
            params, averaged, state, loss = step(params, averaged, state, varied[batch], targets[batch], drawn)
        print(f"epoch {epoch + 1:3d}  loss {loss:.4f}", flush=True)
    check(averaged, options.masks)
    answers = jax.lax.map(lambda x: scores(averaged, x[None])[0].argmax(), images[-mnist.HELD_OUT :], batch_size=1000)
    return averaged, 100 * float(jnp.mean(answers != labels[-mnist.HELD_OUT :]))


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
    parser.add_argument("--vary", type=float, default=0.5, metavar="X", help="turns, scales, shifts (default 0.5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    options = parser.parse_args()
    retrained, held = train(*network(options.model, options.dropout), options)
    print(f"held-out error {held:.2f} %")
    save_file({name: np.asarray(value) for name, value in retrained.items()}, options.out)


if __name__ == "__main__":
    main()
