"""The scoreboard: time, memory and size of onnxprune beside other tools. `python tools/bench --help` lists commands.

Everything that is measured is a whole process of its own, and so is all work that needs numpy: the peak memory of a
process is what the system reports when it ends, which is never less than what its parent held when it was started.
Each command that measures is a module of the table in measures.py; all of them write the same JSON (results.py), which
`compare`, `chart` and `tables` read.
"""
