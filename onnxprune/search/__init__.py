"""Searches that try many models: sensitivity of layers, the largest loss within a budget."""
