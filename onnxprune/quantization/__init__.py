"""Fewer distinct values, in numpy alone: histograms, codebooks, rounding, error feedback."""
