"""Masks kept while a framework trains: `torch`, `jax` and `keras`, each imported by the user who has it."""
