"""Convolutions that compute with 8-bit activations: which of them gain, how they are quantised, what was gained."""
