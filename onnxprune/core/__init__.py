"""Ground that knows nothing of ONNX: element types, threads, files, chunked arrays, processes."""
