"""Limit how long an HTTP connection may wait, and how many may, so that none keeps others out.

uvicorn limits neither how slowly a request arrives nor how slowly its answer is read. It counts a connection that sends
nothing like any other, so a few hundred of them would make it refuse a health check.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# The longest time that the head of a request may take, from the start of the connection or from the head's first byte.
HEADER_SECONDS = 10.0
# The longest time for the rest of a request: its body, decoding, the model, and the client's reading of the answer.
REQUEST_SECONDS = 90.0
# Greatest number of connections that have not sent the whole head of a request. If there are more, the one that has
# waited longest is closed.
WAITING = 512
# However many wait, each has this time for its head first: a burst of requests is no flood of idle connections.
GRACE_SECONDS = 1.0
# Greatest number of connections that wait, in their grace or not, and greatest number of those that linger.
MOST = 1024
# The longest time that a client has to read its answer while it still sends a body that was refused.
LINGER_SECONDS = 30.0
# Greatest number of bytes that are read of such a body.
LINGER_BYTES = 128 << 20
# Number of open files that the process asks the system for.
FILES = 4 * MOST


def more_files() -> None:
    """Raise this process's limit of open files as far as the system allows. Each connection is an open file."""
    # Windows has no such limit.
    with suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Lingering:
    """A transport that, when it is closed early, is closed for writing only.

    Its client may still send the body of a request that was refused. Data that arrives at a closed socket resets the
    connection, and then the client never sees the answer.
    """

    def __init__(self, transport: Any, protocol: Patient) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close the connection, or let it linger where its client still sends."""
        unfinished = self._protocol.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if self._transport.is_closing() or not unfinished:
            self._transport.close()
        elif not self._protocol.lingers:
            try:
                self._transport.write_eof()
            except OSError:
                # The client has reset the connection, which the event loop does not know yet.
                self._transport.close()
                return
            self._transport.resume_reading()
            self._protocol.linger()

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return bool(self._protocol.lingers or self._transport.is_closing())


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, with a time limit for each part of a request. A late connection is closed."""

    waiting: ClassVar[dict[Patient, None]] = {}
    """Connections that have not sent the whole head of a request. The one that has waited longest is first."""
    lingering: ClassVar[dict[Patient, None]] = {}
    """Connections whose clients have their answer and still send. The one that has lingered longest is first."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        self._discarded = 0
        self._since = 0.0
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]  # It passes on all else.
        self._wait()
        # asyncio reads up to 256 KiB at a time, while uvicorn stops reading at 64 KiB.
        transport.max_size = 64 << 10
        self._late: asyncio.TimerHandle | None = None
        self._begun: object = None
        self._within(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._within(None)
        self.waiting.pop(self, None)
        self.lingering.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the limit for a head with its first bytes. Count, and forget, what a lingering connection sends."""
        if self.lingers:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._end("it sent on and on what was refused")
            return
        if self._late is None:
            self._within(HEADER_SECONDS)
        super().data_received(data)

    def handle_events(self) -> None:
        """Start the limit for the rest of a request once its head is complete."""
        super().handle_events()
        if self.cycle is not None and self.cycle is not self._begun and not self.cycle.response_complete:
            self._begun = self.cycle
            self.waiting.pop(self, None)
            self._within(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        """End the limit. Between two requests uvicorn's own limit holds."""
        if not self.lingers:
            self._within(None)
        if not self.transport.is_closing():
            self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request, or a head that is too large. uvicorn calls this after h11's exception."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        message = "the head of the request is too large" if status == 431 else msg
        body = json.dumps({"error": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.waiting.pop(self, None)
        self.transport.close()

    @property
    def lingers(self) -> bool:
        """Whether the client has its answer and still sends, so that all it sends is read and forgotten."""
        return self in self.lingering

    def linger(self) -> None:
        """Read and forget what the client still sends, until it has closed the connection or its time is over."""
        self.lingering[self] = None
        self._within(LINGER_SECONDS)
        if len(self.lingering) > MOST:
            next(iter(self.lingering))._end("too many connections send on what was refused")

    def _wait(self) -> None:
        """Join the waiting connections, and close those that have waited longest if there are too many."""
        self.waiting[self] = None
        self._since = self.loop.time()
        while len(self.waiting) > WAITING:
            first = next(iter(self.waiting))
            if len(self.waiting) <= MOST and self._since - first._since < GRACE_SECONDS:
                return
            first._end("too many connections wait without a request")

    def _within(self, seconds: float | None) -> None:
        """Close the connection in so many seconds, unless this is called again; None sets no limit."""
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self._end)

    def _end(self, reason: str = "its request was not over in time") -> None:
        self.waiting.pop(self, None)
        self.lingering.pop(self, None)
        self.logger.info("%s - closed: %s", self.client, reason)
        self.transport.abort()
