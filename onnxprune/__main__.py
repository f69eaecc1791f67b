"""`python -m onnxprune`: the command line, where its script is not on the path."""

from onnxprune.cli import main

if __name__ == "__main__":  # workers import this module too
    main()
