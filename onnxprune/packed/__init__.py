"""The .onnxz file: a model and its external data, entropy coded, restored byte for byte."""
