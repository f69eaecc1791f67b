"""Compressed models in the packages that ship the originals: the package's own pipeline gives the same answers."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from tests.helpers.repository import MODELS

FETCHED = MODELS / "fetched"
pytestmark = pytest.mark.client
RATE = 16_000
LINES = ("Weights and connections", "one of four is kept", "Total 1,284.50")
CONTENTS = {
    "python": b"import os\n\n\ndef main():\n    for name in os.listdir('.'):\n        print(name)\n\n\nmain()\n" * 3,
    "json": b'{"name": "a", "values": [1, 2, 3.5, null, true], "more": {"key": "value"}}\n' * 3,
    "html": b"<!doctype html><html><head><title>t</title></head><body><p class='a'>text</p></body></html>\n" * 3,
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x06\x00\x00\x00"
    + bytes(range(200)),
    "csv": b"day,hits,share\n2026-01-01,12,0.5\n2026-01-02,15,0.25\n2026-01-03,9,0.125\n" * 4,
    "shell": b"#!/bin/sh\nset -e\nfor f in *.txt; do\n  wc -l \"$f\" | awk '{print $1}'\ndone\n" * 3,
}


def compressed(model: Path, out: Path) -> Path:
    """The model with no options, which is what most people give."""
    result = onnxprune.compress(model, out, verify=False)
    assert result.ratio > 1.5
    return out


def models_of(package: Any) -> Path:
    return Path(package.__file__).parent


@pytest.mark.filterwarnings("ignore")
def test_rapidocr_reads_the_same_lines(tmp_path: Path) -> None:
    rapidocr = pytest.importorskip("rapidocr")
    cv2 = pytest.importorskip("cv2")
    page = np.full((220, 640, 3), 255, np.uint8)
    for at, line in enumerate(LINES):
        cv2.putText(page, line, (20, 60 + 60 * at), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 2, cv2.LINE_AA)
    before = rapidocr.RapidOCR()(page)
    folder = models_of(rapidocr) / "models"
    names = {"Det": "*_det_*.onnx", "Rec": "*_rec_*.onnx", "Cls": "*_cls_*.onnx"}
    places = {
        f"{part}.model_path": str(compressed(next(folder.glob(name)), tmp_path / f"{part}.onnx"))
        for part, name in names.items()
    }
    after = rapidocr.RapidOCR(params=places)(page)
    assert len(before.txts) >= len(LINES)
    assert after.txts == before.txts
    assert np.abs(np.array(after.boxes) - np.array(before.boxes)).max() <= 4


@pytest.mark.filterwarnings("ignore")
def test_magika_gives_the_same_labels(tmp_path: Path) -> None:
    magika = pytest.importorskip("magika")
    (original,) = (models_of(magika) / "models").glob("standard_*")
    folder = tmp_path / original.name
    shutil.copytree(original, folder)
    compressed(original / "model.onnx", folder / "model.onnx")
    before, after = (magika.Magika(model_dir=place) for place in (original, folder))
    labels = {name: before.identify_bytes(content).output.label for name, content in CONTENTS.items()}
    assert len(set(labels.values())) == len(CONTENTS)
    assert {name: after.identify_bytes(content).output.label for name, content in CONTENTS.items()} == labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.fetched
def test_silero_vad_hears_the_same_speech(tmp_path: Path) -> None:
    silero_vad = pytest.importorskip("silero_vad")
    torch = pytest.importorskip("torch")
    files = sorted((FETCHED / "speech").rglob("*.wav"))
    if not files:
        pytest.skip("tools/fetch_models.py speech")
    sound = torch.tensor(np.concatenate([mono(file) for file in files]))
    original = models_of(silero_vad) / "data" / "silero_vad.onnx"
    wrapper = silero_vad.utils_vad.OnnxWrapper
    spoken = []
    for path in (original, compressed(original, tmp_path / "vad.onnx")):
        model, heard = wrapper(str(path), force_onnx_cpu=True), np.zeros(len(sound), bool)
        for part in silero_vad.get_speech_timestamps(sound, model, sampling_rate=RATE):
            heard[part["start"] : part["end"]] = True
        spoken.append(heard)
    assert 0.1 < spoken[0].mean() < 1
    assert (spoken[0] != spoken[1]).mean() < 0.03


@pytest.mark.filterwarnings("ignore")
@pytest.mark.fetched
def test_openwakeword_hears_the_same_word(tmp_path: Path) -> None:
    openwakeword = pytest.importorskip("openwakeword")
    folder = FETCHED / "openwakeword"
    if not (folder / "alexa_v0.1.onnx").exists():
        pytest.skip("tools/fetch_models.py openwakeword")
    rng = np.random.default_rng(0)
    sound = (3000 * rng.standard_normal(RATE)).astype(np.int16)
    names, scores = ("alexa_v0.1.onnx", "melspectrogram.onnx", "embedding_model.onnx"), []
    small = {name: compressed(folder / name, tmp_path / name) for name in names[::2]}
    for places in ({name: folder / name for name in names}, {names[1]: folder / names[1]} | small):
        word, spectrum, embedding = (str(places[name]) for name in names)
        model = openwakeword.Model(
            wakeword_models=[word], inference_framework="onnx", melspec_model_path=spectrum,
            embedding_model_path=embedding,
        )  # fmt: skip
        scores.append([model.predict(sound[at : at + 1280])["alexa_v0.1"] for at in range(0, len(sound), 1280)])
    np.testing.assert_allclose(scores[1], scores[0], atol=0.05)


def mono(file: Path) -> np.ndarray:
    """A recording as float32 from -1 to 1."""
    with wave.open(str(file)) as held:
        assert (held.getframerate(), held.getnchannels(), held.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(held.readframes(held.getnframes()), np.int16).astype(np.float32) / 2**15
