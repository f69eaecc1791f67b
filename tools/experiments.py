"""The experiments of Han et al. 2015 on the LeNets, by onnxprune's own commands.

python tools/experiments.py iterated lenet-5 [--seed N]   # rounds of pruning and retraining
python tools/experiments.py sparsest lenet-300-100        # more of them, and further
python tools/experiments.py tradeoff lenet-300-100        # pruned once: retrained or not, L1 or L2
python tools/experiments.py layers lenet-5                # pruned once to the paper's densities
python tools/experiments.py show                          # tables of all that is finished

Results are in docs/retraining.md. An experiment that was stopped goes on where it was. The held-out
training images choose; the test images only measure. It needs the train extra and
`python tools/fetch_models.py mnist fashion-mnist`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mnist
import numpy as np
import onnx
from bench.processes import ONNXPRUNE
from evaluate_lenet import error_rate
from onnx import numpy_helper

TOOLS = Path(__file__).parent
TEST = "t10k"
ONE_THRESHOLD = ("--scope", "global", "--include", "*.bias")  # one threshold for the network: the ratio counts biases


@dataclass(frozen=True)
class Recipe:
    """How a network is taken down in rounds; `last` epochs follow the last one, if any."""

    to: float
    rounds: int
    epochs: int
    vary: float
    rate: float = 2e-3
    last: int = 0

    def retrain(self, data: str, seed: int, *more: object, epochs: int = 0) -> str:
        """The command that `onnxprune iterate` runs."""
        training = ("--epochs", epochs or self.epochs, "--vary", self.vary, "--rate", self.rate)
        options = ("--data", data, *training, "--seed", seed, *more)
        return f"{_tool('retrain_torch.py', *options)} --model {{model}} --masks {{masks}} --out {{out}}"


RECIPES = {"lenet-300-100": Recipe(0.975, 4, 16, 0.5), "lenet-5": Recipe(0.99, 5, 10, 0.75)}
SPARSEST = {  # many small steps
    "lenet-300-100": Recipe(1 - 1 / 68, 16, 12, 0.5, 4e-3),
    "lenet-5": Recipe(1 - 1 / 200, 14, 8, 0.75, 4e-3, last=24),
}
DENSITIES = {  # of the paper
    "lenet-300-100": {"1.weight": 0.08, "3.weight": 0.09, "5.weight": 0.26},
    "lenet-5": {"0.weight": 0.66, "2.weight": 0.12, "5.weight": 0.08, "7.weight": 0.19},
}
KINDS = ("iterated", "sparsest", "tradeoff", "layers")
L1, L2 = 1e-5, 5e-4  # of the references that `tradeoff` trains
RATIOS = (2, 4, 8, 12, 20, 40)  # parameters over non-zeros in `tradeoff`


def _tool(name: str, *arguments: object) -> str:
    return shlex.join([sys.executable, str(TOOLS / name), *map(str, arguments)])


def onnxprune(*arguments: object) -> None:
    """Run a command of onnxprune and show it."""
    given = list(map(str, arguments))
    print("$", shlex.join(["onnxprune", *given]), flush=True)
    subprocess.run([*ONNXPRUNE, *given], check=True)


@dataclass(frozen=True)
class Experiment:
    """One network on one data set with one seed, and the folder of its files."""

    net: str
    data: str
    seed: int
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """How this network is pruned."""
        return RECIPES[self.net]

    def place(self, what: str, suffix: str = ".onnx") -> Path:
        """The file of one step of this experiment."""
        return self.folder / f"{what}-{self.net}-{self.data}-{self.seed}{suffix}"

    def reference(self, *penalty: object) -> Path:
        """The network to prune: the committed one, or one that is trained here."""
        if self.data == "mnist" and not penalty:
            return TOOLS.parent / "models" / f"{self.net}.onnx"
        path = self.place("-".join(map(str, ("reference", *penalty))))
        if not path.exists():
            options = ("-o", path, "--data", self.data, "--seed", self.seed, *penalty)
            subprocess.run(shlex.split(_tool("train_lenet.py", self.net, *options)), check=True)
        return path

    def rounds(self, what: str, model: Path, retrain: str, *options: object) -> list[dict[str, Any]]:
        """`onnxprune iterate`, and each round's model measured on the test images."""
        facts = self.place(what, ".rounds.json")
        if not facts.exists():
            onnxprune(
                "iterate", model, "--out", self.place(what), "--work", self.place(what, ""), "--json", facts,
                *options, "--retrain", retrain, "--lower-is-better",
                "--evaluate", _tool("evaluate_lenet.py", "--data", self.data) + " {model}",
            )  # fmt: skip
        rounds = json.loads(facts.read_text())["rounds"]
        for found in rounds:
            found |= self.measured(Path(found["model"]))
        return rounds

    def measured(self, model: Path) -> dict[str, Any]:
        """Parameters over non-zeros, and the errors in percent."""
        total, kept = parameters(model)
        errors = {f"{part}_error": error_rate(str(model), *self.images(part)) for part in ("held-out", "test")}
        return {"ratio": total / kept, "nonzero": kept} | errors

    def images(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of "held-out" or "test"."""
        if part == "test":
            return _loaded(TEST, self.data)
        images, labels = _loaded("train", self.data)
        return images[-mnist.HELD_OUT :], labels[-mnist.HELD_OUT :]

    def iterated(self) -> dict[str, Any]:
        """Geometric rounds."""
        return self._in_rounds("iterated", self.recipe)

    def sparsest(self) -> dict[str, Any]:
        """More of them, and further."""
        return self._in_rounds("sparsest", SPARSEST[self.net])

    def _in_rounds(self, what: str, recipe: Recipe) -> dict[str, Any]:
        """Geometric rounds; then every round's model as a file that decodes itself."""
        schedule = ("--to", recipe.to, "--rounds", recipe.rounds, "--schedule", "geometric", *ONE_THRESHOLD)
        reference = self.reference()
        rounds = self.rounds(what, reference, recipe.retrain(self.data, self.seed), *schedule)
        if recipe.last:
            longer = recipe.retrain(self.data, self.seed, epochs=recipe.last)
            again = ("--to", recipe.to, "--rounds", 1, *ONE_THRESHOLD)
            (last,) = self.rounds(f"{what}-last", Path(rounds[-1]["model"]), longer, *again)
            rounds[-1] = last | {"number": len(rounds)}
        for found in rounds:
            small = self.place(f"small-{what}-{found['number']}")
            onnxprune("compress", found["model"], "-o", small, "--sparsity", 0, "--values", "shared:4", "-q")
            found["small"] = {"bytes": small.stat().st_size} | {
                f"{part}_error": error_rate(str(small), *self.images(part)) for part in ("held-out", "test")
            }
        return {"reference": self.measured(reference), "rounds": rounds}

    def tradeoff(self) -> dict[str, Any]:
        """Pruned once to several ratios, from references with L1 and with L2, before and after retraining with it."""
        curves: dict[str, Any] = {}
        for penalty in (("--l1", L1, "--l2", 0), ("--l2", L2)):
            reference, name = self.reference(*penalty), penalty[0].strip("-")
            curves[name] = {"reference": self.measured(reference), "points": []}
            again = ("--l1", L1, "--l2", 0) if name == "l1" else ()
            for ratio in RATIOS:
                pruned = self.place(f"once-{name}-{ratio}")
                onnxprune(
                    "prune", reference, "-o", pruned, "--sparsity", 1 - 1 / ratio, *ONE_THRESHOLD, "-q", "--no-verify"
                )
                options = ("--to", 1 - 1 / ratio, "--rounds", 1, *ONE_THRESHOLD)
                retrain = self.recipe.retrain(self.data, self.seed, *again)
                retrained = self.rounds(f"retrained-{name}-{ratio}", reference, retrain, *options)
                curves[name]["points"].append({"pruned": self.measured(pruned), "retrained": retrained[0]})
        return curves

    def layers(self) -> dict[str, Any]:
        """Pruned once to the paper's densities and retrained: its table of layers, on the test images."""
        options = [f"--set={name}={1 - density:g}" for name, density in DENSITIES[self.net].items()]
        retrain = self.recipe.retrain(self.data, self.seed)
        (found,) = self.rounds("layers", self.reference(), retrain, "--rounds", 1, *options)
        inputs = self.place("images", ".npz")
        np.savez(inputs, image=self.images("test")[0])
        table = subprocess.run(
            [*ONNXPRUNE, "inspect", found["model"], "--data", inputs],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return found | {"table": table, "first": sparsity_picture(Path(found["model"]))}


@cache
def _loaded(part: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    return mnist.load(part, data)


def parameters(model: Path) -> tuple[int, int]:
    """All parameters of a model, and those that are not zero; biases included."""
    arrays = [numpy_helper.to_array(i) for i in onnx.load(model).graph.initializer]
    arrays = [a for a in arrays if a.dtype.kind == "f"]
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


def sparsity_picture(model: Path) -> str | None:
    """How many connections each pixel of the image keeps in a first layer that is linear: 0 to 9, and + above."""
    weight = numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    if weight.shape[1:] != (784,):
        return None
    counts = np.count_nonzero(weight, axis=0).reshape(28, 28)
    return "\n".join("".join("." if not n else str(n) if n < 10 else "+" for n in row) for row in counts)


def show(folder: Path) -> Iterator[str]:
    """The tables of docs/retraining.md."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.result.json"))]
    for net in RECIPES:
        for data in mnist.SETS:
            by_kind = {kind: [f["result"] for f in found if (f["kind"], f["net"], f["data"]) == (kind, net, data)]
                       for kind in KINDS}  # fmt: skip
            for kind in ("iterated", "sparsest"):
                if by_kind[kind]:
                    yield from _headline(net, data, by_kind[kind])
            for result in by_kind["tradeoff"]:
                yield from _tradeoff(net, result)
            for result in by_kind["layers"]:
                errors = f"{result['ratio']:.1f}x, test error {result['test_error']:.2f} %"
                yield f"\n{net} at the paper's densities ({errors}):\n\n```\n{result['table']}```"
                yield f"\n```\n{result['first']}\n```" if result["first"] else ""


def _headline(net: str, data: str, results: list[dict[str, Any]]) -> Iterator[str]:
    reference = results[0]["reference"]
    yield f"\n{net}, {data}, {len(results)} seeds, reference {reference['test_error']:.2f} %:\n"
    yield "| fewer parameters | non-zeros | held-out error | test error | as a file | its test error |"
    yield "|---|---|---|---|---|---|"
    by_round = defaultdict(list)
    for result in results:
        for item in result["rounds"]:
            by_round[item["number"]].append(item)
    for items in list(by_round.values())[-1 :: -max(1, len(by_round) // 4)][::-1]:  # a fourth of many
        small = [item["small"] for item in items]
        yield (
            f"| {items[0]['ratio']:.1f}x | {items[0]['nonzero']:,} | {_spread(i['held-out_error'] for i in items)} | "
            f"{_spread(i['test_error'] for i in items)} | {_spread((s['bytes'] / 1000 for s in small), 'kB', 1)} | "
            f"{_spread(s['test_error'] for s in small)} |"
        )


def _spread(values: Iterator[float], unit: str = "%", digits: int = 2) -> str:
    listed = list(values)
    wide = f" ± {statistics.stdev(listed):.{digits}f}" if len(listed) > 1 else ""
    return f"{statistics.mean(listed):.{digits}f}{wide} {unit}"


def _tradeoff(net: str, result: dict[str, Any]) -> Iterator[str]:
    yield f"\n{net}, pruned once, test error (held-out error):\n"
    yield "| fewer parameters | L1 | L2 | L1, retrained | L2, retrained |\n|---|---|---|---|---|"

    def cell(measured: dict[str, Any]) -> str:
        return f"{measured['test_error']:.2f} % ({measured['held-out_error']:.2f})"

    references = " | ".join(cell(result[name]["reference"]) for name in ("l1", "l2"))
    yield f"| 1x | {references} | | |"
    for one, two in zip(result["l1"]["points"], result["l2"]["points"], strict=True):
        cells = " | ".join(cell(point[when]) for when in ("pruned", "retrained") for point in (one, two))
        yield f"| {one['pruned']['ratio']:.1f}x | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=(*KINDS, "show"), metavar="KIND", help="see above")
    parser.add_argument("net", choices=RECIPES, nargs="?", metavar="NET", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--data", choices=mnist.SETS, default="mnist", help="default mnist")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of training (default 0)")
    parser.add_argument("--folder", type=Path, default=Path("experiments"), help="of all files (default experiments)")
    options = parser.parse_args()
    if options.kind == "show":
        print("\n".join(show(options.folder)))
        return
    if options.net is None:
        parser.error(f"{options.kind} needs a network")
    options.folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(options.net, options.data, options.seed, options.folder.resolve())
    result = getattr(experiment, options.kind)()
    facts = {"kind": options.kind, "net": options.net, "data": options.data, "seed": options.seed, "result": result}
    experiment.place(options.kind, ".result.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
