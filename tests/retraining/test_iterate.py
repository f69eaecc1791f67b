"""Prune and retrain in rounds: what comes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from onnxprune.errors import CheckpointError, CommandError, ToleranceMissed
from onnxprune.retraining import schedule
from onnxprune.runtime.metrics import Limit
from tests.retraining.rounds import EVALUATE, FINAL, PYTHON, RETRAIN, arrays, command_line, iterate, zeros

# rounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(schedule.SCHEDULES))
def test_every_round_has_its_exact_count_and_masks_only_grow(folder, name):
    result = iterate(rounds=4, schedule=name)
    before = {n: np.zeros(a.shape, bool) for n, a in arrays("m.onnx").items()}
    for r in result.rounds:
        now = {n: a == 0 for n, a in arrays(r.model).items()}
        for n in FINAL:
            assert now[n].sum() == round(schedule.sparsity(name, 0.9, r.number, 4) * now[n].size)
            assert now[n][before[n]].all()
            np.testing.assert_array_equal(load_file(r.masks)[n], ~now[n])
        before = now
        assert r.nonzero == sum(np.count_nonzero(a) for a in arrays(r.model).values())
    assert (folder / "o.onnx").read_bytes() == Path(result.rounds[-1].model).read_bytes()
    assert result.chosen == 4
    assert not np.array_equal(arrays("o.onnx")["fc0.bias"], arrays("m.onnx")["fc0.bias"])  # biases are trained too


def test_targets_of_single_weights_and_scope(folder):
    result = iterate(set=["fc1*=0.5"], skip=["fc0*"])
    assert zeros("o.onnx") == {"fc0.weight": 0, "fc1.weight": 512}
    assert zeros(result.rounds[0].model)["fc1.weight"] == round(0.5 * (1 - 1 / 8) * 1024)
    iterate(scope="global", work="g")
    assert sum(zeros("o.onnx").values()) == round(0.9 * 3072)
    assert zeros("o.onnx")["fc1.weight"] != round(0.9 * 1024)
    iterate(to=None, set=["fc1.weight=0.5"], work="s")
    assert zeros("o.onnx") == {"fc0.weight": 0, "fc1.weight": 512}


def test_a_framework_with_names_and_an_orientation_of_its_own(folder):
    held = arrays("m.onnx")
    named = {f"net.{n}": np.ascontiguousarray(a.T) for n, a in held.items()}
    save_file(named, "c.safetensors")
    (folder / "train.py").write_text(
        "import sys\nfrom safetensors.numpy import load_file, save_file\n"
        "masks, before = load_file(sys.argv[1]), load_file(sys.argv[3])\n"
        "save_file({n: (a + 1) * masks.get(n, True) for n, a in before.items()}, sys.argv[2])\n"
    )
    iterate(retrain=f"{PYTHON} train.py {{masks}} {{out}} {{checkpoint}}", names_from="c.safetensors")
    kept = arrays("o.onnx")
    for name, array in held.items():
        np.testing.assert_array_equal(kept[name][kept[name] != 0], (array + 1 + 1)[kept[name] != 0])


@pytest.mark.parametrize("suffix", ["npz", "onnx"])
def test_other_ways_back(folder, suffix):
    iterate()
    first = arrays("o.onnx")
    Path("o.onnx").unlink()
    iterate(retrain=RETRAIN.replace("{out}", f"{{out.{suffix}}}"), work="w")
    assert Path(f"w/round-2/retrained.{suffix}").is_file()
    assert all(np.array_equal(first[n], a) for n, a in arrays("o.onnx").items())


def test_splice_lets_weights_return(folder):
    with pytest.raises(CheckpointError, match=r"not zero any more: 'fc0\.weight' 1,\d\d\d, 'fc1\.weight' .*splice"):
        iterate(retrain=f"{RETRAIN} dense")
    result = iterate(retrain=f"{RETRAIN} dense", splice=True, restart=True)
    for r in result.rounds:
        assert r.returned > 0
        given, kept = load_file(f"o.onnx.rounds/round-{r.number}/masks.safetensors"), load_file(r.masks)
        back = sum(int((kept[n] & ~given[n]).sum()) for n in given)
        assert back == r.returned
        assert all(kept[n].sum() == given[n].sum() for n in given)
        retrained = load_file(f"o.onnx.rounds/round-{r.number}/retrained.safetensors")
        for n, mask in kept.items():
            np.testing.assert_array_equal(arrays(r.model)[n], retrained[n] * mask)
            assert np.abs(retrained[n][~mask]).max() <= np.abs(retrained[n][mask]).min()


# metrics --------------------------------------------------------------------------------------------


def test_the_sparsest_round_within_the_tolerance_wins(folder):
    options = {"rounds": 4, "schedule": "linear", "evaluate": EVALUATE}
    result = iterate(**options, tolerance=0.6)
    assert [r.within for r in result.rounds] == [True, True, False, False]
    assert result.chosen == 2
    assert zeros("o.onnx") == zeros("o.onnx.rounds/round-2/model.onnx")
    assert json.loads(json.dumps(result.facts()))["rounds"][1]["metric"] == result.rounds[1].metric
    assert iterate(**options, tolerance=0.91).chosen == 4  # chosen anew, nothing runs again
    assert iterate(**options, tolerance=0, lower_is_better=True).chosen == 4
    assert iterate(**options).chosen == 4


def test_no_round_within_the_tolerance_writes_nothing(folder):
    with pytest.raises(ToleranceMissed, match=r"the best of 2 rounds has 0\.2\d+, below 0\.99"):
        iterate(evaluate=EVALUATE, tolerance=0.01)
    assert not Path("o.onnx").exists()
    assert Path("o.onnx.rounds/round-2/model.onnx").is_file()


@given(st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_a_miss_of_exactly_the_tolerance_is_within(metric, tolerance, lower):
    sign = 1 if lower else -1
    limit = Limit.of(metric, tolerance, lower)
    assert limit.holds(metric + sign * tolerance)
    assert limit.holds(metric)
    assert not limit.holds(metric + sign * (tolerance + 1))


@pytest.mark.parametrize(
    ("printed", "said"),
    [("nan", "'nan'"), ("inf", "'inf'"), ("top1=0.9", "'top1=0.9'"), ("''", "'evaluating'")],
)
def test_what_is_no_number_is_an_error(folder, printed, said):
    with pytest.raises(CommandError, match=rf"must print a number as its last line, and printed {said} for m\.onnx"):
        iterate(evaluate=f"{EVALUATE} {printed}")
    assert not Path("o.onnx").exists()


# command line ---------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*arguments), capture_output=True, text=True, check=False)


def test_the_command_line(folder):
    done = run("o.onnx", "--tolerance", "0.95", "--json", "o.json")
    assert done.returncode == 0, done.stderr
    assert "round 3 of 3: 90.01 % zero, metric 0.0998535" in done.stderr
    assert "round 3: 387 of 3,152 parameters are not zero (8.1x fewer)" in done.stdout
    assert json.loads(Path("o.json").read_text())["chosen"] == 3
    again = run("o.onnx", "-q")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert run("o.onnx", "--tolerance", "0").returncode == 3
    failed = run("p.onnx", "--retrain", f"{RETRAIN} fail")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-2:][0] == "  out of luck"
    assert failed.stderr.splitlines()[-1].startswith("Error: the retrain command ended with exit code 1; its output is")


def test_biases_are_pruned_where_they_are_included(folder):
    iterate(scope="global", include=("*.bias",))
    held = arrays("o.onnx")
    total = sum(a.size for a in held.values())
    assert sum(np.count_nonzero(a) for a in held.values()) == total - round(0.9 * total)
    assert any(np.count_nonzero(a) < a.size for n, a in held.items() if n.endswith("bias"))
