"""One progress line that replaces itself: in a notebook a single display, at a terminal a carriage return."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


class Progress:
    """Show "label 12 % ..." at most every `every_s` seconds; `done` leaves the last line standing.

    In a Jupyter kernel the line is one output with a display id, so that a document run without a browser holds one
    line; where the output is neither a kernel nor a terminal only the last line is printed.
    """

    def __init__(self, every_s: float = 2.0):
        self.every_s, self.last, self.handle = every_s, 0.0, None
        self.kernel = _in_kernel()

    def show(self, line: str | Callable[[], str]) -> None:
        """Replace the line (or what `line` then returns), unless the last one is younger than `every_s`."""
        now = time.monotonic()
        if now - self.last < self.every_s:
            return
        self.last = now
        line = line if isinstance(line, str) else line()
        if self.kernel:
            self._display(line)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def done(self, line: str) -> None:
        """Replace the line for the last time."""
        if self.kernel:
            self._display(line)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}\n")
        else:
            print(line, flush=True)

    def _display(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": line}
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
