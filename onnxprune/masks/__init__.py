"""Mask files: what was pruned leaves for any framework, and retrained weights come back."""
