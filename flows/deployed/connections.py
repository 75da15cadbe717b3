"""HTTP connections that do not wait for ever: uvicorn limits neither how slowly a request comes nor how slowly its answer is
read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # for the head of a request, from the connection or from its first byte
REQUEST_SECONDS = 90.0  # for all the rest: the body, decoding, the answer and its being read


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a limit for each part of a request; at its end the connection is closed."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        # asyncio reads up to 256 KiB at a time, before uvicorn can say that it has enough; it has at 64 KiB.
        transport.max_size = 64 << 10
        self._late: asyncio.TimerHandle | None = None
        self._begun: object = None
        self._within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._within(None)
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
            self._within(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        """Wait no more: between requests uvicorn's own limit holds."""
        self._within(None)
        super().on_response_complete()

    def _within(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        self.logger.info("%s - closed: its request was not over in time", self.client)
        self.transport.abort()
