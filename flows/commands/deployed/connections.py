"""HTTP connections that neither wait for ever nor keep others out.

uvicorn limits neither how slowly a request comes nor how slowly its answer is read, and counts a connection that sends
nothing like one that does, so that a few hundred of them would have a health check refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# for the head of a request, from the connection or from its first byte
HEADER_SECONDS = 10.0
# for all the rest: the body, decoding, the answer and its being read
REQUEST_SECONDS = 90.0
# connections without the whole head of a request; of more, the one that has waited longest is closed
WAITING = 512
# for the head of a request, however many wait: a burst of requests is no flood of idle connections
GRACE_SECONDS = 1.0
# connections that wait, whatever their grace; likewise of those that linger
MOST = 1024
# for a client to read its answer while it still sends what is refused
LINGER_SECONDS = 30.0
# of which so many are read
LINGER_BYTES = 128 << 20
# open files that the process asks the system for
FILES = 4 * MOST


def more_files() -> None:
    """Raise the limit of open files, of which each connection is one, as far as the system lets this process."""
    # Windows has no such limit
    with suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Lingering:
    """A transport that is closed for writing alone while its client has not sent all of a request that is refused.

    What was sent to a socket that is closed resets the connection, and the client never sees the answer.
    """

    def __init__(self, transport: Any, protocol: Patient) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close the connection, or have it linger."""
        unfinished = self._protocol.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if self._transport.is_closing() or not unfinished:
            self._transport.close()
        elif not self._protocol.lingers:
            self._transport.write_eof()
            self._transport.resume_reading()
            self._protocol.linger()

    def is_closing(self) -> bool:
        """Whether nothing more is written."""
        return bool(self._protocol.lingers or self._transport.is_closing())


class Patient(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a limit for each part of a request; at its end the connection is closed."""

    waiting: ClassVar[dict[Patient, None]] = {}
    """Connections without the whole head of a request, the one that has waited longest first."""
    lingering: ClassVar[dict[Patient, None]] = {}
    """Connections whose clients have their answer, and still send; the first of them first."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        self._discarded = 0
        self._since = 0.0
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]  # it has all of a transport
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
        self.lingering.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin to wait for the rest of a head, where this is the first of it."""
        if self.lingers:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._end("it sent on and on what was refused")
            return
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
        if not self.lingers:
            self._within(None)
        if not self.transport.is_closing():
            self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or one whose head is too large; uvicorn calls this where h11 has raised that."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        told = "the head of the request is too large" if status == 431 else msg
        body = json.dumps({"error": told}).encode()
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
        """Whether the client has its answer, and what it still sends is read and forgotten."""
        return self in self.lingering

    def linger(self) -> None:
        """Read and forget what the client still sends, until it has closed the connection or its time is over."""
        self.lingering[self] = None
        self._within(LINGER_SECONDS)
        if len(self.lingering) > MOST:
            next(iter(self.lingering))._end("too many connections send on what was refused")

    def _wait(self) -> None:
        """Be one of those that wait, and close the first of them if they are too many."""
        self.waiting[self] = None
        self._since = self.loop.time()
        while len(self.waiting) > WAITING:
            first = next(iter(self.waiting))
            if len(self.waiting) <= MOST and self._since - first._since < GRACE_SECONDS:
                return
            first._end("too many connections wait without a request")

    def _within(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self._end)

    def _end(self, why: str = "its request was not over in time") -> None:
        self.waiting.pop(self, None)
        self.lingering.pop(self, None)
        self.logger.info("%s - closed: %s", self.client, why)
        self.transport.abort()
