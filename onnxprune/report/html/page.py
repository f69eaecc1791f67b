"""The page: one HTML file with its style, its script and its pictures inside."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnxprune.allocation.curves import Curves
from onnxprune.api.result import versions
from onnxprune.encodings.file_contents import MUCH
from onnxprune.report.deviations import concern, remarks, sqnr, verdict, worst_sqnr
from onnxprune.report.html import pictures
from onnxprune.report.html.contents import Contents, LayerRow, Sketch
from onnxprune.report.html.pictures import shortened
from onnxprune.report.html.statistics import PatternImage
from onnxprune.report.terminal import percent, size

_BARS = 20  # weights of the bar chart; the rest is one bar
_MIN_BAR_SHARE = 0.005  # of the largest weight's bytes: what takes less is not seen as a bar
_LONGEST = 8  # times the height is the width of a pattern at most, whatever the matrix is
_ROOM = 40  # characters of a name on the page; the whole of it is its title


def render(contents: Contents, command: str) -> str:
    """The page as text; the same contents and command give the same text."""
    environment = Environment(
        loader=PackageLoader("onnxprune.report", "html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_visible,
    )  # fmt: skip
    environment.filters |= {"size": size, "short": lambda name, room=_ROOM: shortened(name, room), "digits": _digits}
    environment.globals |= {
        "percent": percent,
        "verdict": verdict,
        "remarks": remarks,
        "sqnr": sqnr,
        "concern": concern,
    }
    style, script = (
        files("onnxprune.report.html").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    return environment.get_template("page.html").render(
        contents=contents,
        result=contents.result,
        command=command,
        style=Markup(style),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bars=_bars(contents) if contents.layers else None,
        curves=None if contents.curves is None else _curves(contents.curves),
        cards=[_card(sketch, number) for number, sketch in enumerate(contents.sketches)],
        asked=any(layer.requested is not None for layer in contents.layers),
        skipped=_grouped(contents),
        worst=_worst(contents),
        metadata=contents.holds["metadata"] > MUCH * contents.file.bytes,
        versions=contents.result.versions if contents.result else versions(),
    )


def _visible(value: Any) -> Any:
    """What the template puts into the page: any text may be of the model."""
    return pictures.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _digits(value: float | None, digits: int = 4) -> str:
    """A number to so many digits, or a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _bars(contents: Contents) -> Markup:
    """The largest weights, and what is too small for a bar of its own together."""

    def largest(layer: LayerRow) -> int:
        return max(layer.bytes_before, layer.bytes_after)

    ranked = sorted(contents.layers, key=largest, reverse=True)
    shown = [layer for layer in ranked[:_BARS] if largest(layer) >= _MIN_BAR_SHARE * largest(ranked[0])]
    rest = ranked[len(shown) :]
    names = [layer.name for layer in shown] + [f"({len(rest)} smaller)"] * bool(rest)
    before = [layer.bytes_before for layer in shown] + [sum(layer.bytes_before for layer in rest)] * bool(rest)
    after = [layer.bytes_after for layer in shown] + [sum(layer.bytes_after for layer in rest)] * bool(rest)
    return Markup(pictures.bars(names, before if contents.result else None, after, "Bytes by weight"))


def _curves(curves: Curves) -> dict[str, Any]:
    ranked = pictures.most_sensitive(curves)
    return {
        "picture": Markup(pictures.sensitivity(curves, f"{shortened(curves.metric, _ROOM)} against sparsity")),
        "coloured": ranked[: pictures.COLOURED],
        "others": len(ranked) - pictures.COLOURED,
        "facts": curves,
    }


def _card(sketch: Sketch, number: int) -> dict[str, Any]:
    """What the template draws of one weight."""
    label = f"{number + 1}: {shortened(sketch.layer.name, _ROOM)}"
    card: dict[str, Any] = {
        "sketch": sketch,
        "histogram": Markup(pictures.histogram(sketch.histogram, f"Values of {label}")),
    }
    if sketch.pattern is not None:
        card["pattern"] = _pattern(sketch.pattern) | {"label": f"What is kept of {label}"}
    if sketch.image is not None:
        most = max(int(sketch.image.max()), 1)
        card["image"] = {
            "url": pictures.png(sketch.image / most), "height": sketch.image.shape[0], "width": sketch.image.shape[1],
            "least": int(sketch.image.min()), "most": int(sketch.image.max()), "label": f"By input pixel of {label}",
        }  # fmt: skip
    return card


def _pattern(found: PatternImage) -> dict[str, Any]:
    """The picture with its longer side across: outputs down and inputs across, or the other way round."""
    shares, block, shape = found.shares, found.block, found.shape
    sides = [("outputs", shape[0]), ("inputs", shape[1])]
    if shape[0] > shape[1]:
        shares, block, sides = shares.T, block[::-1], sides[::-1]
    most = float(shares.max(initial=0))
    return {
        "url": pictures.png(shares / most if most else shares), "height": shares.shape[0], "width": shares.shape[1],
        "down": sides[0], "across": sides[1], "block": block, "most": most,
        "aspect": min(sides[1][1] / max(sides[0][1], 1), _LONGEST),
    }  # fmt: skip


def _grouped(contents: Contents) -> list[tuple[str, int, list[str]]]:
    """(reason, how many, names) of what was left alone, the most frequent first."""
    if contents.result:
        skipped = [(entry.name, entry.reason.text) for entry in contents.result.skipped]
    else:
        skipped = [(layer.name, layer.left_alone) for layer in contents.layers if layer.left_alone]
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        names.setdefault(reason, []).append(name)
    counts = Counter({reason: len(found) for reason, found in names.items()})
    return [(reason, count, names[reason]) for reason, count in counts.most_common()]


def _worst(contents: Contents) -> tuple[str, str]:
    """(value, what it is) of the output that deviates most, for the headline."""
    if contents.result is None or contents.result.deviation.source == "none":
        return "-", "not verified"
    outputs, source = contents.result.deviation.outputs, contents.result.deviation.source
    of = "" if len(outputs) == 1 else f", lowest of {len(outputs)} outputs"
    if not outputs or any(o["differs"] for o in outputs):
        return "differs", "outputs differ in shape or finiteness"
    if outputs and all(o["says_nothing"] and o["max_abs"] == 0 for o in outputs):
        return "says nothing", "outputs are empty, constant or not finite in both"
    if all(o["max_abs"] == 0 for o in outputs):
        return "equal", "outputs, bit for bit" if len(outputs) > 1 else "output, bit for bit"
    sqnr = worst_sqnr(outputs)
    if source == "synthetic" and sqnr is not None:
        return f"{sqnr:.1f} dB" if math.isfinite(sqnr) else "differs", f"SQNR on synthesised inputs{of}"
    agreements = [o["top1_agreement"] for o in outputs if o["top1_agreement"] is not None]
    if agreements and source == "data":
        return f"{100 * min(agreements):.2f} %", f"top-1 agreement{of}"
    if agreements and all(o["cosine"] is None for o in outputs):
        return f"{100 * (1 - min(agreements)):.2f} %", f"classes that differ on synthesised inputs{of}"
    cosines = [o["cosine"] for o in outputs if o["cosine"] is not None]
    return f"{min(cosines):.5f}", f"cosine of the outputs{of}"
