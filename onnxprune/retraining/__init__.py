"""Prune and retrain in rounds with the user's own training command."""
