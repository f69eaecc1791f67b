"""Convolutions that compute with 8-bit activations: which of them gain, and how they are quantised."""
