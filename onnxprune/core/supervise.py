"""Run a command, and end it and all that it started when whoever asked for it is gone.

A script of its own, `python supervise.py COMMAND...`, started as the leader of a process group. Its standard input is a
pipe that the asker holds open: however the asker ends, kill -9 included, the pipe closes, and the group with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def main() -> int:
    """Exit with the command's code; as shells do, 127 if it cannot run and 128 + n if signal n ended it."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # the group's; ignoring it would be inherited
    try:
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot run {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127
    ending = threading.Event()
    threading.Thread(target=_end, args=(ending,), daemon=True).start()
    code = command.wait()
    if ending.is_set():  # what the command left behind
        os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end(ending: threading.Event) -> None:
    os.read(0, 1)  # returns at the end of the pipe: nothing is ever written
    ending.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
