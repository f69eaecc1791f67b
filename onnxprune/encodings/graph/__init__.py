"""Encoded weights in and out of a graph."""
