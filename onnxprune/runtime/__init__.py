"""Run models in ONNX Runtime and judge what they put out."""
