"""Whole channels: which are coupled, which are dead, and how they are removed from a graph."""
