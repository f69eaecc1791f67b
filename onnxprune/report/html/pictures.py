"""Drawings as text: matplotlib's SVG, trimmed to what stands inside a page, and palette PNG of patterns.

The same input gives the same bytes: the user's matplotlibrc has no say, ids come from the drawing's label, and there
is no date. Colours are the page's custom properties, so that a picture follows its light and dark.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from onnxprune.allocation.curves import Curve, Curves
from onnxprune.core.dtypes import Array
from onnxprune.report import terminal
from onnxprune.report.html.statistics import BINS, BarHistogram

COLOURED = 8  # curves in a picture that have a colour of their own
_WIDTH = 4.2  # inches; at 72 points each, what a telephone shows in its own size
_BAR = 0.26  # inches of a pair of bars
_NAME = 26  # characters beside a bar

# Colours that matplotlib writes, and the custom property that takes the place of each.
_INK, _FAINT, _BEFORE, _AFTER = "#010101", "#020202", "#030303", "#040404"
_LINES = [f"#0501{number:02x}" for number in range(COLOURED)]
_VARIABLES = {_INK: "ink", _FAINT: "faint", _BEFORE: "before", _AFTER: "after"} | {
    colour: f"line{number}" for number, colour in enumerate(_LINES)
}
_RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a weight's name is a $
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the layout is that of any machine
    "font.size": 9.5,
    "axes.unicode_minus": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
    "grid.color": _FAINT,
    "grid.linewidth": 0.4,
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw the text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def visible(text: str) -> str:
    """The text with control characters, which no page may hold, and marks of direction as what they are written."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(name: str, room: int) -> str:
    """The name, made visible, with its middle left out."""
    return terminal.shortened(visible(name), room)


def _svg(figure: Figure, label: str) -> str:
    """The drawing as an element of a page; `label` is unique in the page, and so are the ids that it salts."""
    matplotlib.rcParams["svg.hashsalt"] = label
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    box = re.findall(r'<svg [^>]*viewBox="([\d. ]+)"', text)[0]
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)  # its rules would be those of the page
    body = re.sub(r"<[^>]*>", _in_page, body)
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _in_page(tag: re.Match[str]) -> str:
    """A tag with the page's colours and without what only a file of its own needs."""
    text = re.sub(r'^<g id="[^"]*"', "<g", tag[0]).replace("xlink:href", "href")
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", text)


def bars(names: Sequence[str], before: Sequence[float] | None, after: Sequence[float], title: str) -> str:
    """A horizontal bar chart of bytes, in kB or MB.

    Args:
        names: of the bars.
        before: bytes before, a bar each; None for a chart of `after` alone.
        after: bytes after.
        title: of the picture, for readers that do not see it.

    Returns:
        The SVG.
    """
    largest = max((*(before or ()), *after), default=0)
    unit, factor = next(((u, f) for u, f in (("MB", 1e6), ("kB", 1e3)) if largest >= f), ("bytes", 1))
    with _style():
        figure = Figure((_WIDTH, 0.55 + _BAR * max(len(names), 1) * (1.4 if before else 1)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(names))
        if before is not None:
            axes.barh(places - 0.2, np.divide(before, factor), 0.38, color=_BEFORE)
        axes.barh(places + (0.2 if before else 0), np.divide(after, factor), 0.38 if before else 0.7, color=_AFTER)
        axes.set_yticks(places, [shortened(name, _NAME) for name in names])
        axes.tick_params("y", length=0)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(unit)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, title)


def histogram(found: BarHistogram, title: str) -> str:
    """Counts of values other than zero, on a logarithmic axis: the first filled, the last as a line."""
    edges = np.linspace(-found.limit, found.limit, BINS + 1) if found.limit else np.linspace(-1, 1, BINS + 1)
    with _style():
        figure = Figure((_WIDTH, 1.8), layout="constrained")
        axes = figure.add_subplot()
        if len(found.counts) > 1:
            axes.stairs(found.counts[0], edges, fill=True, color=_BEFORE, baseline=0.5)
        axes.stairs(found.counts[-1], edges, fill=True, color=_AFTER, baseline=0.5, alpha=0.75)
        axes.set_yscale("log")
        axes.set_ylim(0.5, 2 * max(10, *(int(c.max()) for c in found.counts)))
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("value, without zeros")
        axes.set_ylabel("entries")
        return _svg(figure, title)


def _thousands(value: float, _: int) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def most_sensitive(curves: Curves) -> list[Curve]:
    """The layers that cost most first: by what the metric loses, averaged over the sparsity levels."""
    sign = 1 if curves.lower_is_better else -1

    def loss(curve: Curve) -> float:
        return sign * float(np.mean([p.metric for p in curve.points])) - sign * curves.baseline

    return sorted((c for c in curves.layers if c.points), key=loss, reverse=True)


def sensitivity(curves: Curves, title: str) -> str:
    """The metric against the sparsity of one layer at a time; the most sensitive layers in colour."""
    ranked = most_sensitive(curves)
    with _style():
        figure = Figure((_WIDTH, 3), layout="constrained")
        axes = figure.add_subplot()
        for number in reversed(range(len(ranked))):
            points = sorted(ranked[number].points, key=lambda p: p.sparsity)
            levels, metrics = [p.sparsity for p in points], [p.metric for p in points]
            if number < COLOURED:
                axes.plot(levels, metrics, color=_LINES[number], linewidth=1.4, marker="o", markersize=2.5)
            else:
                axes.plot(levels, metrics, color=_FAINT, linewidth=0.7)
        axes.axhline(curves.baseline, color=_INK, linewidth=0.8, linestyle="--")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"sparsity, share of {curves.of}")
        axes.set_ylabel(shortened(curves.metric, _NAME))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return _svg(figure, title)


def png(shares: Array) -> str:
    """A picture as a data URL: the larger a share (0 to 1), the more opaque is the one colour."""
    exact = bool(((shares == 0) | (shares == 1)).all())
    bits, top = (1, 1) if exact else (4, 15)
    levels = np.ceil(np.clip(shares, 0, 1) * top).astype(np.uint8)  # what is not nothing is seen
    rows, columns = levels.shape
    unpacked = (levels[..., None] >> np.arange(bits)[::-1].astype(np.uint8)) & 1
    packed = np.packbits(unpacked.reshape(rows, -1), axis=1)
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), packed], axis=1).tobytes()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, 3, 0, 0, 0)),
        (b"PLTE", bytes((58, 123, 213)) * (top + 1)),  # legible on white and on black
        (b"tRNS", bytes(round(255 * level / top) for level in range(top + 1))),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
