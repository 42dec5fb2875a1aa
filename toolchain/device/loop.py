"""asyncio behind synchronous calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable
from typing import TypeVar

from toolchain.device import stop

T = TypeVar("T")
Timeouts = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)  # one class from Python 3.11 on
SPARE_S = 10.0  # should the work not let itself be cancelled


class Loop:
    """An event loop in a thread of its own, so that callers stay synchronous."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], timeout_s: float) -> T:
        """Result of `work`; TimeoutError after `timeout_s`."""

        async def wait() -> T:
            return await asyncio.wait_for(work, timeout_s)

        return stop.result(asyncio.run_coroutine_threadsafe(wait(), self._loop), timeout_s + SPARE_S)

    def close(self) -> None:
        """Cancel what is still under way and end the thread."""

        async def cancel() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
