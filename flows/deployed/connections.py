"""HTTP connections that neither wait for ever nor keep others out.

uvicorn limits neither how slowly a request comes nor how slowly its answer is read, and counts a connection that sends
nothing like one that does, so that a few hundred of them would have a health check refused.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # for the head of a request, from the connection or from its first byte
REQUEST_SECONDS = 90.0  # for all the rest: the body, decoding, the answer and its being read
WAITING = 512  # connections without the whole head of a request; of more, the one that has waited longest is closed


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a limit for each part of a request; at its end the connection is closed."""

    waiting: ClassVar[dict[Patient, None]] = {}
    """Connections without the whole head of a request, the one that has waited longest first."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()
        # asyncio reads up to 256 KiB at a time, before uvicorn can say that it has enough; it has at 64 KiB.
        transport.max_size = 64 << 10
        self._late: asyncio.TimerHandle | None = None
        self._begun: object = None
        self._within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._within(None)
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin to wait for the rest of a head, where this is the first of it."""
        if self._late is None:
            self._within(HEADER_SECONDS)
        super().data_received(data)

    def handle_events(self) -> None:
        """Begin to wait for the rest of a request, where its head is complete."""
        super().handle_events()
        if self.cycle is not None and self.cycle is not self._begun and not self.cycle.response_complete:
            self._begun = self.cycle
            self.waiting.pop(self, None)
            self._within(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        """Wait no more: between requests uvicorn's own limit holds."""
        self._within(None)
        if not self.transport.is_closing():
            self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        """Be one of those that wait, and close the first of them if they are too many."""
        self.waiting[self] = None
        if len(self.waiting) > WAITING:
            next(iter(self.waiting))._end("too many connections wait without a request")

    def _within(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self._end)

    def _end(self, why: str = "its request was not over in time") -> None:
        self.waiting.pop(self, None)
        self.logger.info("%s - closed: %s", self.client, why)
        self.transport.abort()
