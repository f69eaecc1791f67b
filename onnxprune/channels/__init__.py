"""Whole channels: which live and die together, which are dead, and how they are cut out."""
