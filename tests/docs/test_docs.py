"""The documentation shows what happens: its commands and its Python run, one page after the other in a fresh folder."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import math
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from onnxprune.cli import cli
from tests.helpers.documents import PAGES, Fence, anchors, fences, folder_of, prose
from tests.helpers.repository import ROOT

VENV = ".venv/bin/"
SHELL = re.compile(r"[|<>;$&]")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
TIMES = re.compile(r"\d+\.\d{3,}")
FENCES = [
    pytest.param(page, fence, id=f"{page.relative_to(ROOT)}:{fence.line}") for page in PAGES for fence in fences(page)
]
FILES = {fence.notes["file"] for page in PAGES for fence in fences(page) if "file" in fence.notes}
SHOWN = {file.removeprefix("passes/").removesuffix(".py").replace("/", ".") for file in FILES}  # modules
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def is_run(fence: Fence) -> bool:
    return fence.language in ("sh", "python") and "not run" not in fence.notes


# what runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return folder_of(tmp_path, monkeypatch)


def shell(command: str) -> str:
    """What a command prints; one of onnxprune's that needs no shell runs in this process."""
    words = shlex.split(command, comments=True)
    if words[0] == "onnxprune" and not SHELL.search(re.sub("'[^']*'", "", command)):
        called = CliRunner().invoke(cli, words[1:], catch_exceptions=False, standalone_mode=False)
        assert called.exit_code == 0, called.output
        return called.stdout
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(fence: Fence) -> str:
    """What a fence prints."""
    if fence.language == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(fence.body, "fence", "exec"), {"__name__": "__main__"})
        return printed.getvalue()
    lines = fence.commands
    if "command" in fence.notes:  # the rest makes the environment, which is here
        lines = [line.rpartition("&&")[2].strip().removeprefix(VENV) for line in lines]
    return "".join(map(shell, lines))


def compared(text: str, times: bool) -> list[str]:
    """The lines of an output, without what is different in each run."""
    lines = [line.rstrip() for line in text.splitlines() if "ms a run, measured here" not in line]
    if times:
        lines = [" ".join(TIMES.sub("#", line).split()) for line in lines if not re.search(r"\d ms\b", line)]
    return lines


def alike(printed: str, shown: str) -> bool:
    """Whether two lines differ by a tenth of their numbers at the most: what is fitted depends on the processor."""
    texts, others = NUMBER.split(printed), NUMBER.split(shown)
    if [text.split() for text in texts] != [text.split() for text in others]:
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return all(math.isclose(float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=0.1) for a, b in pairs)


def assert_shown(printed: list[str], shown: list[str]) -> None:
    """A line of three dots stands for lines that are left out."""
    if "..." in shown:
        at = shown.index("...")
        tail = len(shown) - at - 1
        printed, shown = printed[:at] + printed[len(printed) - tail :], shown[:at] + shown[at + 1 :]
    if len(printed) != len(shown) or not all(map(alike, printed, shown)):
        assert printed == shown


RUNNING = [page for page in PAGES if any(map(is_run, fences(page)))]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_happens(page, folder):
    printed = None
    for fence in fences(page):
        if "file" in fence.notes:
            place = folder / fence.notes["file"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(fence.body)
        elif is_run(fence):
            printed = ran(fence)
        elif fence.language == "" and printed is not None:
            times = "output" in fence.notes
            assert_shown(compared(printed, times), compared(fence.body, times))
            printed = None


# what is only parsed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "fence"), FENCES)
def test_every_fence_is_sound(page, fence):
    """Of a language that is known here; what is an output stands behind what prints it."""
    assert fence.language in ("", "sh", "python", "toml", "json", "text"), fence.language
    if fence.language == "toml":
        tomllib.loads(fence.body)
    elif fence.language == "json":
        json.loads(fence.body)
    elif fence.language == "python":
        check_python(fence.body)
    elif fence.language == "sh":
        for command in fence.commands:
            check_command(command.split("#")[0])
    elif fence.language == "":
        before = [other for other in fences(page) if other.line < fence.line]
        assert before, "nothing stands in front of this output"
        assert is_run(before[-1]) or before[-1].language == "sh", "a picture is a fence of text"


def check_command(command: str) -> None:
    """See that programs, subcommands and options exist."""
    subprocess.run(["bash", "-n", "-c", command], check=command.split()[0] not in ("for", "done"), capture_output=True)
    for part in re.split(r"&&|\|", command):
        words = [word for word in shlex.split(part) if not re.fullmatch(r"\w+=[\w./:]*", word)]
        program = words[0].removeprefix(VENV) if words else ""
        if program == "onnxprune":
            check_options(words[1:])
        elif program in ("python", "python3") and words[1] == "-m":
            assert importlib.util.find_spec(words[2]), words
        elif program == "python" and words[1].startswith("tools/"):
            check_tool(ROOT / words[1], words[2:])
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for named in re.findall(r"\[([\w,]+)\]", part):
                assert set(named.split(",")) <= extras.keys(), part


def check_options(words: list[str]) -> None:
    """See that click takes a command line of onnxprune."""
    command: click.Command = cli
    context = None
    while isinstance(command, click.Group):
        context = command.make_context(words[0] if context else "onnxprune", list(words), parent=context)
        if not isinstance(command, click.Group):
            break
        name, found, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, name
        command = found
    command.make_context(command.name, list(words), parent=context)


def check_tool(tool: Path, words: list[str]) -> None:
    """See that a tool of the repository is there and knows the options."""
    sources = sorted(tool.glob("*.py")) if tool.is_dir() else [tool]
    text = "".join(source.read_text() for source in sources)
    assert text, tool
    for word in words:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in text, (tool, word)


def check_python(source: str) -> None:
    """See that it compiles, and that the names it uses and imports exist."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"]
    done = subprocess.run(ruff, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    tree = ast.parse(source)
    known: dict[str, object | None] = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            name, found = alias.asname or alias.name.partition(".")[0], resolved(node, alias)
            known[name] = found and known.get(name, found)  # None where any part of it is not installed

    def held(node: ast.expr) -> object | None:
        """What a dotted name stands for, as far as it goes through modules."""
        if isinstance(node, ast.Name):
            return known.get(node.id)
        inner = held(node.value) if isinstance(node, ast.Attribute) else None
        return getattr(inner, node.attr) if isinstance(inner, ModuleType) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            held(node)


def resolved(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> object | None:
    """What an import brings; None where its package is not installed here, as frameworks may be, or is a reader's."""
    module = node.module if isinstance(node, ast.ImportFrom) else alias.name
    assert module is not None
    try:
        held = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("onnxprune") and error.name not in SHOWN:
            raise
        return None
    if not isinstance(node, ast.ImportFrom):
        return held if alias.asname or "." not in module else importlib.import_module(module.partition(".")[0])
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(f"{module}.{alias.name}")
    return getattr(held, alias.name)


# what the text says --------------------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not fragment or fragment in anchors(file), target


@every_page
def test_options_in_the_text_exist(page):
    """Those of the commands, and of the tools of the repository."""
    commands = [cli, *cli.commands.values(), *cli.commands["masks"].commands.values()]
    known = {
        name for command in commands for option in command.params for name in (*option.opts, "--help", "--version")
    }
    tools = "".join(source.read_text() for source in (ROOT / "tools").rglob("*.py"))
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", code):
            assert option in known or f'"{option}"' in tools, f"`{code}`"


def test_the_guide_lists_every_command():
    guide = (ROOT / "docs" / "guide.md").read_text()
    assert all(f"`{name} " in guide or f"`{name}`" in guide for name in cli.commands)
