"""Rounds that cannot begin or go on: one clear error, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxprune
from onnxprune.errors import CheckpointError, CommandError, OptionError, OutputError
from tests.helpers.builders import mlp
from tests.retraining.rounds import EVALUATE, FINAL, PYTHON, RETRAIN, SIZES, arrays, iterate, zeros


def test_a_failing_command(folder):
    with pytest.raises(
        CommandError, match=r"the retrain command ended with exit code 1; .*round-1/retrain\.log"
    ) as error:
        iterate(retrain=f"{RETRAIN} fail")
    assert error.value.output == ("trained with ['fail']", "out of luck")
    with pytest.raises(CommandError, match="exit code 3") as error:
        iterate(evaluate=f"{PYTHON} -c 'import sys; print(\"{{model}}\"); sys.exit(3)'", restart=True)
    assert error.value.output == ("m.onnx",)
    with pytest.raises(CommandError, match="was ended by signal 9"):
        iterate(retrain=f"{PYTHON} -c 'import os; os.kill(os.getpid(), 9)' {{out}}", restart=True)
    with pytest.raises(CommandError, match=r"wrote no \{out\}"):
        iterate(retrain=f"{RETRAIN} nothing", restart=True)
    with pytest.raises(CheckpointError, match=r"lacks the parameter 'fc1\.bias'"):
        iterate(retrain=f"{RETRAIN} lacks", restart=True)
    assert not Path("o.onnx").exists()
    iterate(restart=True)
    assert zeros("o.onnx") == {n: round(s * a.size) for n, s in FINAL.items() for a in [arrays("m.onnx")[n]]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": 1.0}, "sparsity must be"),
        ({"to": 1.5}, "sparsity must be"),
        ({"to": None}, "nothing says how much"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"schedule": "square"}, "schedule 'square' is not one of"),
        ({"set": ["fc0*"]}, "must be PATTERN=SPARSITY"),
        ({"tolerance": 0.1}, "needs an evaluate"),
        ({"tolerance": -1, "evaluate": EVALUATE}, "from 0 up"),
        ({"retrain": "python train.py"}, r"lacks \{out\}"),
        ({"retrain": "python train.py {checkpoint} {out}"}, r"\{checkpoint\} is none of"),
        ({"retrain": "python train.py {sparsity} {out}", "to": None, "set": ["fc0*=0.5"]}, r"\{sparsity\} is none of"),
        ({"retrain": "python train.py {outt} {out}"}, r"\{outt\} is none of"),
        ({"retrain": "'python {out}"}, "No closing quotation"),
        ({"retrain": " "}, "retrain is empty"),
        ({"retrain": "no-such-program {out}"}, "no program 'no-such-program'"),
        ({"evaluate": "python judge.py"}, r"lacks \{model\}"),
    ],
)
def test_options_that_make_no_sense(folder, options, message):
    with pytest.raises(OptionError, match=message):
        iterate(**options)
    assert not Path("o.onnx.rounds").exists()


def test_nothing_to_prune(folder):
    with pytest.raises(OptionError, match=r"no weight of m\.onnx is pruned"):
        iterate(skip=["*"])


def test_outputs_and_folders_that_hold_something_else(folder):
    with pytest.raises(OutputError, match="is an input"):
        onnxprune.iterate("m.onnx", "m.onnx", retrain=RETRAIN, to=0.5)
    with pytest.raises(OutputError, match="a file in a folder that exists"):
        onnxprune.iterate("m.onnx", "no/o.onnx", retrain=RETRAIN, to=0.5)
    with pytest.raises(OutputError, match="holds other things"):
        iterate(work=".", restart=True)
    with pytest.raises(OutputError, match="a file in a folder that exists"):
        iterate(work="o.onnx")
    with pytest.raises(OutputError, match="cannot use the folder"):
        iterate(work="m.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        iterate(names_from="no.safetensors")
    assert Path("train.py").is_file()


def test_one_run_at_a_time(folder):
    (folder / "train.py").write_text("import onnxprune, sys\n" + ITERATE_AGAIN)
    with pytest.raises(CommandError) as error:
        iterate(retrain=f"{PYTHON} train.py {{out}}")
    assert "another run is working in o.onnx.rounds" in error.value.output[-1]


ITERATE_AGAIN = "onnxprune.iterate('m.onnx', 'o.onnx', retrain=f'{sys.executable} train.py {{out}}', to=0.9, rounds=2)"


def test_other_arguments_for_the_same_folder(folder):
    iterate()
    with pytest.raises(OptionError, match=r"o\.onnx\.rounds was begun with other arguments: to was 0\.9 and is 0\.8\."):
        iterate(to=0.8)
    Path("m.onnx").write_bytes(mlp(SIZES, seed=1).SerializeToString())
    with pytest.raises(OptionError, match="arguments: model was"):
        iterate()
    iterate(rounds=1, restart=True)
    assert sorted(p.name for p in Path("o.onnx.rounds").iterdir()) == ["round-0", "round-1", "state.json"]
    Path("o.onnx.rounds/state.json").write_text("{")
    with pytest.raises(OutputError, match="is damaged"):
        iterate(rounds=1)
