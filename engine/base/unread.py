"""Output that nothing reads any more: `python -m engine info | head -3` closes the pipe before all is said."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import TextIO

UNREAD = 141
"""The exit status of a command whose reader went: that of one which the signal for it, 13, has ended."""


def drop_unread() -> bool:
    """Tell whether standard output or the standard error goes where nothing reads; from now on that goes nowhere.

    Without that, the interpreter would try once more at its end, and complain. Called where a `BrokenPipeError` was
    met, which may as well come of a connection.
    """
    unread = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_unread(stream)]
    for stream in unread:
        with suppress(OSError, ValueError):  # it is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return bool(unread)


def _is_unread(stream: TextIO) -> bool:
    try:
        stream.flush()
        if not hasattr(select, "poll"):
            return False
        watch = select.poll()
        watch.register(stream.fileno(), 0)  # errors are told in any case
        return any(what & select.POLLERR for _, what in watch.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # it is no file
        return False
