"""The words of the command line as functions."""
