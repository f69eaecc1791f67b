"""One file for each runtime: `load(path, feeds, outputs, work)` gives an object whose `run(feeds)` gives the outputs.

`TIMED = False`: the adapter tells by `facts` what is decoded when. `REPEATS`: conversions whose outputs must agree.
"""
