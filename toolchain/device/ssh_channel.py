"""One process at the other end of an SSH link, with a deadline on every wait."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from toolchain.device import login
from toolchain.device.channel import STDERR_TAIL, Ended
from toolchain.device.loop import Loop, Timeouts
from toolchain.errors import ConnectionLostError, RemoteTimeoutError

if TYPE_CHECKING:
    import asyncssh

END_S = 5.0


class SshChannel:
    """One remote process. `quiet` while raw bytes are sent: no sign of life may come between them."""

    def __init__(self, loop: Loop, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._loop, self._process = loop, process
        self._stderr, self._lost, self.quiet = b"", "", False
        self._tasks: list[asyncio.Future[None]] = []
        self._loop.run(self._spawn(self._follow_stderr()), END_S)

    def read(self, timeout_s: float) -> bytes:
        import asyncssh

        try:
            return self._loop.run(self._process.stdout.read(1 << 16), timeout_s)
        except Timeouts as error:
            raise RemoteTimeoutError("no answer in time", got=f"{timeout_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            self._lost = cause(error)
            return b""

    def write(self, data: bytes, timeout_s: float) -> None:
        import asyncssh

        async def send() -> None:
            self._process.stdin.write(data)
            await self._process.stdin.drain()

        try:
            self._loop.run(send(), timeout_s)
        except Timeouts as error:
            raise RemoteTimeoutError("the device does not read", got=f"{timeout_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            self._lost = self._lost or (cause(error) if isinstance(error, asyncssh.ConnectionLost) else "")
            raise ConnectionLostError("the link or the process has ended", got=cause(error)) from error

    def keep(self, every_s: float) -> None:
        """Send an empty line every so many seconds, so that the agent knows that we are there."""

        async def beat() -> None:
            while not self._process.is_closing():
                await asyncio.sleep(every_s)
                if not self.quiet and not self._process.is_closing():
                    self._process.stdin.write(b"\n")

        self._loop.run(self._spawn(beat()), END_S)

    def finish(self, timeout_s: float) -> Ended:
        import asyncssh

        async def end() -> None:
            self._process.stdin.write_eof()
            await self._process.wait_closed()

        try:
            self._loop.run(end(), timeout_s)
        except (*Timeouts, asyncssh.Error, OSError):
            self.kill()
        code = self._process.returncode
        stderr = self._stderr.decode("utf-8", "replace")
        if code is None:
            return Ended(None, None, stderr, self._lost or "the process ended without a status")
        return Ended(code, None, stderr) if code >= 0 else Ended(None, -code, stderr)

    def kill(self) -> None:
        import asyncssh

        async def end() -> None:
            if self._process.returncode is None:
                self._process.kill()
            self._process.close()

        try:
            self._loop.run(end(), END_S)
        except (*Timeouts, asyncssh.Error, OSError):
            return  # nothing more can be done over a link that is gone; the agent sees its end

    async def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _follow_stderr(self) -> None:
        import asyncssh

        try:
            while block := await self._process.stderr.read(1 << 16):
                self._stderr = (self._stderr + block)[-STDERR_TAIL:]
        except (asyncssh.Error, OSError):
            return  # the link is lost: read() on stdout reports it


def cause(error: Exception) -> str:
    """Why a link ended, in words a user can act on."""
    text = str(error) or type(error).__name__
    if "keepalive" in text:
        silent_s = login.KEEPALIVE_S * login.KEEPALIVE_COUNT
        return f"nothing was heard for {silent_s:g} s: the device is frozen, switched off, or its network is cut"
    return text
