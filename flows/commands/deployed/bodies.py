"""Read the image files that requests send, with limits on their size, their time, and the memory of all together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from decoders import BUSY, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Greatest size of an image file; Cloud Run has the same limit for a request.
BODY_BYTES = 32 << 20
# Greatest size of all image files together that are arriving or waiting for a decoder.
BODIES_BYTES = 48 << 20
# The longest time that an image file may take to arrive.
BODY_SECONDS = 30.0


class Bodies:
    """The image files of all requests that are in memory.

    Attributes
    ----------
    held
        Their size, in bytes.
    """

    def __init__(self) -> None:
        self.held = 0

    async def read(self, parts: AsyncIterator[bytes], length: str, body: bytearray) -> None:
        """Read a request's body into `body`.

        Parameters
        ----------
        parts
            The parts of the body, as they arrive.
        length
            The request's Content-Length; empty where it has none.
        body
            The bytes that have been read, also where the rest is refused.

        Raises
        ------
        Refused
            If the body is too large or too slow, or all bodies together are too large.
        """
        large = Refused(413, f"an image file of up to {BODY_BYTES >> 20} MiB is accepted")
        # The HTTP parser refuses a Content-Length that is no number.
        if length and int(length) > BODY_BYTES:
            raise large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in parts:
                    body += part
                    self.held += len(part)
                    if len(body) > BODY_BYTES:
                        raise large
                    if self.held > BODIES_BYTES:
                        raise Refused(503, BUSY)
        except TimeoutError:
            raise Refused(408, f"the image file did not arrive within {BODY_SECONDS:g} s") from None

    def release(self, body: bytearray) -> None:
        """Forget a request's body."""
        self.held -= len(body)
        body.clear()
