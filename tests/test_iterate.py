"""Prune and retrain in rounds: the schedules, the commands, and what survives when a run is killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import onnxprune
from onnxprune.errors import CheckpointError, CommandError, OptionError, OutputError, ToleranceMissed
from onnxprune.retraining import schedule
from onnxprune.runtime.metrics import Limit
from tests.helpers.builders import mlp
from tests.helpers.running import initializers

SIZES = (32, 64, 16)
FINAL = {"fc0.weight": 0.9, "fc1.weight": 0.9}
# As a trainer would: it reads model and masks, and moves every weight that is kept.
TRAINER = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file
model, masks, out, *mode = sys.argv[1:]
proto, masks = onnx.load(model), load_file(masks)
weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
scale = np.float32(1 if "dense" in mode else 0.1)
noise = {n: np.random.default_rng(w.size).standard_normal(w.shape).astype(w.dtype) for n, w in weights.items()}
moved = {n: w + scale * noise[n] for n, w in weights.items()}
held = {n: moved[n] * masks.get(n, True) for n in moved}
print("trained with", mode)
if "dense" in mode:
    held = moved
if "fail" in mode:
    sys.exit("out of luck")
if "nothing" in mode:
    sys.exit()
if "lacks" in mode:
    del held["fc1.bias"]
if out.endswith(".onnx"):
    for t in proto.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(held[t.name], t.name))
    onnx.save(proto, out)
elif out.endswith(".npz"):
    np.savez(out, **held)
else:
    save_file({n: np.ascontiguousarray(a) for n, a in held.items()}, out)
"""
# The share of zeros, so that each round has another number.
JUDGE = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
weights = [numpy_helper.to_array(t) for t in onnx.load(sys.argv[1]).graph.initializer if t.name.endswith("weight")]
print("on standard error", file=sys.stderr)
print("evaluating")
print(sys.argv[2] if len(sys.argv) > 2 else 1 - sum((w == 0).mean() for w in weights) / len(weights))
"""
PYTHON = shlex.quote(sys.executable)
RETRAIN = f"{PYTHON} train.py {{model}} {{masks}} {{out}}"
EVALUATE = f"{PYTHON} judge.py {{model}}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(mlp(SIZES).SerializeToString())
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path


def arrays(path) -> dict[str, np.ndarray]:
    return initializers(onnx.load(path))


def zeros(path) -> dict[str, int]:
    return {n: int((a == 0).sum()) for n, a in arrays(path).items() if n.endswith("weight")}


def iterate(**options):
    return onnxprune.iterate("m.onnx", "o.onnx", **{"retrain": RETRAIN, "to": 0.9, "rounds": 2} | options)


# schedules -------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(schedule.SCHEDULES)), st.floats(0, 0.999), st.integers(1, 40))
def test_schedules_rise_to_the_target(name, final, rounds):
    steps = [schedule.sparsity(name, final, number, rounds) for number in range(1, rounds + 1)]
    assert steps == sorted(steps)
    assert steps[-1] == final
    assert all(0 <= step <= final for step in steps)


def test_schedules_are_what_they_are_called():
    def steps(name):
        return [schedule.sparsity(name, 0.875, number, 3) for number in (1, 2, 3)]

    assert steps("linear") == pytest.approx([0.875 / 3, 0.875 * 2 / 3, 0.875])
    assert steps("geometric") == pytest.approx([0.5, 0.75, 0.875])
    assert steps("cubic") == pytest.approx([0.875 * (1 - 8 / 27), 0.875 * (1 - 1 / 27), 0.875])


# rounds ----------------------------------------------------------------------------------------------


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


# metrics ---------------------------------------------------------------------------------------------


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


# errors ----------------------------------------------------------------------------------------------


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


# killed ----------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_unless_its_files_changed(folder):
    iterate()
    said: list[str] = []
    iterate(say=said.append)
    assert not any(line.endswith(("prune", "retrain", "ingest")) for line in said)
    first = Path("o.onnx").read_bytes()
    Path("o.onnx.rounds/round-2/retrained.safetensors").write_bytes(b"cut short")
    iterate(say=said.append)
    assert "round-2 retrain: its files were changed since, so that it runs again" in said
    assert [line for line in said if line.endswith(("prune", "retrain", "ingest"))] == [
        "round 2 of 2: retrain", "round 2 of 2: ingest",
    ]  # fmt: skip
    assert Path("o.onnx").read_bytes() == first


def command_line(out: str, *more: str) -> list[str]:
    arguments = ["m.onnx", "-o", out, "--to", "0.9", "--rounds", "3", "--retrain", RETRAIN, "--evaluate", EVALUATE]
    return [sys.executable, "-c", "from onnxprune.cli import main; main()", "iterate", *arguments, *more]


# The processes of this test's own folder, by their working directory.
def running(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink() == folder and (entry / "stat").read_text().rsplit(")", 1)[1][1] != "Z":
                    found.append(int(entry.name))
            except OSError:  # it ended meanwhile, or is another user's
                continue
    return found


def gone(folder: Path) -> bool:
    end = time.monotonic() + 10
    while running(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not running(folder)


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_no_child_running(folder, number):
    (folder / "train.py").write_text(
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('started', 'w').close()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(command_line("o.onnx"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not Path("started").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(running(folder)) == 4  # the run, what watches over it, the trainer and its child
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert gone(folder)
    assert not Path("o.onnx").exists()
    if number != signal.SIGKILL:
        assert "the same command goes on from here" in said
        assert not list(Path("o.onnx.rounds").glob("round-*/.*"))


def kept(work: str) -> dict[str, bytes]:
    """Everything that rounds leave, but the state, which names the commands, and the logs, which name files."""
    files = (p for p in Path(work).rglob("*") if p.is_file() and p.name != "state.json" and p.suffix != ".log")
    return {str(p.relative_to(work)): p.read_bytes() for p in files}


def iterate_in(folder: Path, options: dict, lines: Connection) -> None:
    """What is killed: a process of its own that says what it does."""
    os.chdir(folder)
    onnxprune.iterate("m.onnx", "o.onnx", **options, say=lines.send)


def test_killed_fifty_times_it_ends_with_the_same_files(folder):
    """Runs that are killed at random moments, of their process and in any phase, each going on where the last one was.

    A fork server takes the place of a new interpreter, whose imports would be most of what is killed.
    """
    options = {"retrain": RETRAIN, "to": 0.9, "rounds": 3, "evaluate": EVALUATE, "tolerance": 0.95}
    whole = onnxprune.iterate("m.onnx", "whole.onnx", **options)
    moments = [("", 0.02), ("prune", 0.02), ("retrain", 0.2), ("ingest", 0.02), ("evaluate", 0.2)]  # how long they take
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.test_iterate", "onnxprune.retraining.iterate"])
    rng, kills = random.Random(0), 0
    while kills < 50:
        receive, send = processes.Pipe(duplex=False)
        child = processes.Process(target=iterate_in, args=(folder, options, send))
        child.start()
        send.close()
        phase, length = moments[kills % len(moments)]
        with receive, contextlib.suppress(EOFError):
            while phase and not receive.recv().endswith(phase):
                pass
            time.sleep(rng.uniform(0, length))
        if child.is_alive():
            child.kill()
            child.join()
            kills += 1
            continue
        assert child.exitcode == 0
        assert kept("o.onnx.rounds") == kept("whole.onnx.rounds")  # it had come to its end: begin again
        assert Path("o.onnx").read_bytes() == Path("whole.onnx").read_bytes()
        Path("o.onnx").unlink()
        shutil.rmtree("o.onnx.rounds")
    last = iterate(**options)
    assert last.facts()["rounds"][0]["metric"] == whole.rounds[0].metric
    assert kept("o.onnx.rounds") == kept("whole.onnx.rounds")
    assert Path("o.onnx").read_bytes() == Path("whole.onnx").read_bytes()


# command line ----------------------------------------------------------------------------------------


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
