"""A model's bytes, graph and weights: what is read and written, and where weights lie."""
