"""A server of a test's own, as a process that the test may hurt."""

import os
import signal
import subprocess
from types import TracebackType
from typing import Any, Self


class OwnProcess:
    """The process while the block lasts; `start` of a subclass begins it, again too."""

    _process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it for good."""
        self.kill()

    def start(self) -> None:
        """Start it; returns when it answers."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill it, with everything in it."""
        if self._process is not None:
            self._process.kill()  # also where it hangs
            self._process.communicate()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again, empty."""
        self.kill()
        self.start()

    def hang(self) -> None:
        """Let it answer nothing; its connections stay."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process
        os.kill(self._process.pid, number)
