"""Two charts of `growth` as SVG, each with a light and a dark look of its own, readable at the width of a telephone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

from . import peers
from .growth import START
from .results import Results, Row

WIDTH, HEIGHT = 4.3, 4.3  # inches of 96 CSS pixels: two side by side, one on a telephone at nearly its own size
_DARK = {"#ffffff": "#0d1117", "#1f2328": "#e6edf3", "#d1d6db": "#30363d", "#c4cad1": "#57606a"}
_PAPER, _INK, _GRID, _BAND = _DARK
_LINES = {  # light, dark, line, mark
    peers.EXACT: ("#0b5fd0", "#58a6ff", "-", "o"),
    peers.SHARED: ("#1a7f37", "#4cc764", "-", "s"),
    peers.LIMIT: ("#57606a", "#9aa4b0", ":", "x"),
    peers.ONNXSIM: ("#cf222e", "#ff7b72", "--", "^"),
    "onnxruntime quantize_dynamic": ("#9a6700", "#e3b341", "--", "v"),
    "NNCodec qp -32": ("#8250df", "#bc8cff", "--", "D"),
    "gzip -6": ("#bf3989", "#f778ba", "--", "<"),
    "zstd -3": ("#0e7490", "#39c5cf", "--", ">"),
}
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write `growth-time.svg` and `growth-memory.svg`; SystemExit if the results are not of `growth`."""
    rows = [row for row in results.rows if row.model != START and not row.problem and "/" not in row.model]
    if not {row.tool for row in rows} & _LINES.keys():
        raise SystemExit("Error: these results hold no sizes: draw what `growth --json` wrote")
    drawings: list[tuple[str, str, Callable[[Row], float]]] = [
        ("growth-time.svg", "time: ns a weight, start-up included", lambda row: row.time / row.weights * 1e9),
        ("growth-memory.svg", "peak memory: MB", lambda row: row.peak / 1e6),
    ]
    out = []
    for name, title, value in drawings:
        path = folder / name
        path.write_text(_picture(rows, title, value), encoding="utf-8")
        out.append(path)
    return out


def _picture(rows: list[Row], title: str, value: Callable[[Row], float]) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        figure = Figure((WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for tool, (colour, _, line, mark) in _LINES.items():
            mine = sorted((row for row in rows if row.tool == tool), key=lambda row: row.weights)
            if mine:
                own, label = tool.startswith("onnxprune"), tool.removeprefix("onnxruntime ")
                axes.plot(
                    [row.weights for row in mine], list(map(value, mine)), line, color=colour, marker=mark,
                    linewidth=2.4 if own else 1.4, markersize=5 if own else 4, label=label, zorder=3 if own else 2,
                )  # fmt: skip
        if "memory" in title:
            sizes = sorted({row.weights for row in rows})
            axes.plot(sizes, [4 * size / 1e6 for size in sizes], color=_BAND, linewidth=5, label="the fp32 weights")
        axes.set(xscale="log", yscale="log")
        ticks = {row.weights: row.model for row in rows}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.10g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("weights")
        axes.grid()
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower left", ncols=2, fontsize=8.5, frameon=False, columnspacing=1)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _adaptive(file.getvalue(), title)


def _adaptive(svg: str, title: str) -> str:
    """The drawing with a name for those who cannot see it, and other colours where the reader prefers dark."""
    colours = _DARK | {light: dark for light, dark, *_ in _LINES.values()}
    rules = [
        f'[style*="{what}: {light}"] {{ {what}: {dark} !important }}'
        for light, dark in colours.items()
        for what in ("fill", "stroke")
    ]
    style = f"<style>@media (prefers-color-scheme: dark) {{\n{chr(10).join(rules)}\n}}</style>"

    def opened(tag: re.Match[str]) -> str:
        return f'{tag[0][:-1]} role="img" aria-label="{title}">\n<title>{title}</title>\n{style}'

    return re.sub(r"<svg [^>]*>", opened, re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), count=1)
