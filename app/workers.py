"""Several processes that serve one address: `python -m app serve --workers N`.

The parent holds the address and starts the workers. Each inherits the listening socket and a line:
over it a worker says that it serves, and learns that its parent is gone. uvicorn's own supervisor
would start its plain servers, which neither drain nor end with their parent.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from app.core.observability import log

VARIABLE = "DUPLEX_WORKER"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # before a worker that has ended is started again
STEADY_SECONDS = 60  # who has lived so long is started again after the first pause
KILL_SECONDS = 7  # longer than a worker has, or after a second signal, is too long


@dataclass(frozen=True)
class Post:
    """What a worker is given by its parent: the listening socket, and the line to the parent."""

    listener: socket.socket
    line: socket.socket

    def serves(self) -> None:
        """Tell the parent that this worker serves."""
        self.line.send(b"+")

    def end_with_parent(self) -> None:
        """From now on, end as by SIGTERM when the parent is gone, however it ended."""
        threading.Thread(target=self._wait, name="parent", daemon=True).start()

    def _wait(self) -> None:
        self.line.recv(1)  # nothing is ever sent this way: it returns at the end of the line
        os.kill(os.getpid(), signal.SIGTERM)


def inherited() -> Post | None:
    """What this process was given, where it is a worker; its own children are none."""
    given = os.environ.pop(VARIABLE, None)
    if given is None:
        return None
    listener, line = (socket.socket(fileno=int(number)) for number in given.split(","))
    return Post(listener, line)


@dataclass(eq=False)
class Worker:
    """A worker as the parent sees it."""

    process: asyncio.subprocess.Process
    line: socket.socket
    since: float = field(default_factory=time.monotonic)

    async def serves(self) -> bool:
        """Wait until it serves; False where it has ended before."""
        return bool(await asyncio.get_running_loop().sock_recv(self.line, 1))

    async def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        code = await self.process.wait()
        self.line.close()
        return code

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """Starts workers, starts again those that end, and ends with them.

    Args:
        listener: the socket to serve.
        workers: how many.
        shutdown_seconds: how long a worker may take to end.
        started: called once all of them serve.
    """

    def __init__(
        self,
        listener: socket.socket,
        workers: int,
        *,
        shutdown_seconds: float,
        started: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._wanted = workers
        self._shutdown_seconds = shutdown_seconds
        self._started = started
        #: What the worker of a place (0, 1, …) finds beside its parent's environment.
        self.environment: Callable[[int], Mapping[str, str]] = lambda place: {}
        #: Called when the worker of a place has ended, before another takes it.
        self.ended: Callable[[int], None] = lambda place: None
        self._workers: set[Worker] = set()
        self._serving = 0
        self._stopping = asyncio.Event()
        self._code = 0

    def run(self) -> int:
        """Supervise until a signal comes; returns the exit code.

        It is 0 where all have ended in good order, that of a worker that could not start, 128 and
        the number of a second signal, or else 1.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told, number)
        await asyncio.gather(*(self._keep(place) for place in range(self._wanted)))
        return self._code

    def _told(self, number: int) -> None:
        if self._stopping.is_set():
            self._code = 128 + number
            self._stop(within=0)
        else:
            self._stop(within=self._shutdown_seconds)

    def _stop(self, *, within: float) -> None:
        """End all workers: told so, and killed where they take longer. Said twice, they hurry."""
        self._stopping.set()
        self._listener.close()  # or the kernel would go on taking connections for nobody
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(within + KILL_SECONDS, self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            log.error("worker killed", pid=worker.process.pid)
            worker.send(signal.SIGKILL)

    async def _keep(self, place: int) -> None:
        """Have one worker serve, again and again, until it is to stop."""
        pause, served = FIRST_PAUSE, False
        while not self._stopping.is_set():
            worker = await self._start(place)
            if await worker.serves():
                self._welcome(worker, first=not served)
                served = True
            code = await worker.ended()
            self._workers.discard(worker)
            self.ended(place)
            if self._stopping.is_set():
                self._judge(code)
            elif not served:
                log.error("worker did not start", pid=worker.process.pid, code=code)
                self._code = max(code, 1)
                self._stop(within=self._shutdown_seconds)
            else:
                if time.monotonic() - worker.since > STEADY_SECONDS:
                    pause = FIRST_PAUSE
                log.error("worker ended", pid=worker.process.pid, code=code, restarts_in=pause)
                await self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _start(self, place: int) -> Worker:
        """Run this program once more, as a worker, where no Ctrl-C of the terminal reaches it."""
        here, there = socket.socketpair()
        here.setblocking(False)
        with there:
            given = (self._listener.fileno(), there.fileno())
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env={
                    **os.environ,
                    **self.environment(place),
                    VARIABLE: "{},{}".format(*given),
                },
                pass_fds=given,
                process_group=0,
            )
        worker = Worker(process, here)
        self._workers.add(worker)
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        return worker

    def _welcome(self, worker: Worker, *, first: bool) -> None:
        log.info("worker serves", pid=worker.process.pid)
        self._serving += first
        if first and self._serving == self._wanted:
            self._started()

    def _judge(self, code: int) -> None:
        # A worker that is told before it can hear is ended by the signal itself.
        if code not in (0, -signal.SIGTERM):
            self._code = self._code or 1

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
