"""A thread that notices when a function holds the event loop, and in the end ends the process.

While the loop is held nothing is answered, no ping and no health check, and nothing on the loop
can say so. Who starts the process again, a container or the parent of workers, makes it well.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from app.core.observability import log

TICK_SECONDS = 0.25
TELL_SECONDS = 1.0
FRAMES = 40
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


class Watchdog:
    """Watches the event loop that it is started on.

    After a second it logs where the loop is held: the stack of its thread, without the values of
    variables. Time is counted in turns of its own thread: where the whole process was stopped, by
    a debugger or with its machine, that counts as one of them.

    Args:
        seconds: how long the loop may be held; 0: it is not watched.
        ends: whether the process is ended then, with exit code 70; otherwise it is only told of.
    """

    def __init__(self, seconds: float, *, ends: bool) -> None:
        self._seconds = seconds
        self._ends = ends
        self._answered = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch the running loop from now on, which is this thread's."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        if self._seconds:
            self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        held, told, before = 0.0, False, time.monotonic()
        asked = self._ask()
        while asked and not self._over.wait(TICK_SECONDS):
            now = time.monotonic()
            turn, before = now - before, now
            if self._answered.is_set():
                if told:
                    _tell(log.warning, "event loop free", seconds=round(held, 1))
                held, told, asked = 0.0, False, self._ask()
                continue
            held += min(turn, 2 * TICK_SECONDS)
            if not told and held >= min(TELL_SECONDS, self._seconds):
                told = True
                _tell(log.error, "event loop held", seconds=round(held, 1), stack=self._stack())
            if self._ends and held >= self._seconds:
                line = {"seconds": round(held, 1), "stack": self._stack()}
                _tell(log.critical, "ended by the watchdog", **line)
                os._exit(EXIT_CODE)

    def _ask(self) -> bool:
        """Ask the loop for a sign of life; False where it has ended."""
        self._answered.clear()
        try:
            self._loop.call_soon_threadsafe(self._answered.set)
        except RuntimeError:
            return False
        return True

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        return "".join(traceback.format_stack(frame, FRAMES)).rstrip() if frame else ""


def _tell(write: Callable[..., None], event: str, **fields: object) -> None:
    """Log it, in a thread that is left behind: the loop may be held by a log that nobody reads."""
    teller = threading.Thread(target=write, args=(event,), kwargs=fields, daemon=True)
    teller.start()
    teller.join(TELL_SECONDS)
