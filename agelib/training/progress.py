"""One progress line that replaces itself: in a notebook a single display, at a terminal a carriage return."""

from __future__ import annotations

import sys
import time


class Progress:
    """Show "label 12 % ..." at most every EVERY_S seconds; `done` leaves the last line standing.

    In a Jupyter kernel the line is one output with a display id, so that a document run without a browser holds one
    line; where the output is neither a kernel nor a terminal only the last line is printed.
    """

    EVERY_S = 2.0

    def __init__(self):
        self.last, self.handle = 0.0, None

    def show(self, line: str) -> None:
        """Replace the line, unless the last one is too young."""
        if time.monotonic() - self.last >= self.EVERY_S:
            self.last = time.monotonic()
            self._put(line)

    def done(self, line: str) -> None:
        """Replace the line for the last time."""
        self._put(line, last=True)

    def _put(self, line: str, last: bool = False) -> None:
        ipython, content = sys.modules.get("IPython"), {"text/plain": line}
        if ipython and hasattr(ipython.get_ipython(), "kernel"):
            if self.handle:
                self.handle.update(content, raw=True)
            else:
                self.handle = ipython.display.display(content, raw=True, display_id=True)
        elif sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last:
            print(line, flush=True)
