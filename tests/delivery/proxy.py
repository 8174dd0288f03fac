"""A way to a server that can be made slow."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class SlowProxy:
    """Passes bytes on to a port of this machine, those of the client after `delay` seconds."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        both = (
            asyncio.ensure_future(self._pass(reader, back, slow=True)),
            asyncio.ensure_future(self._pass(there, writer, slow=False)),
        )
        with suppress(asyncio.CancelledError):  # the proxy ends
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        back.close()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, slow: bool
    ) -> None:
        while data := await source.read(65_536):
            if slow and self.delay:
                await asyncio.sleep(self.delay)
            target.write(data)
            await target.drain()
