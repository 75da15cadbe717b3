"""The deployed server in a burst of clients, and with clients that are refused while they send: all are answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import Server, load_app, running_with_limits

if TYPE_CHECKING:
    from pathlib import Path

# as many as may wait however slow the machine is; 900 were answered on a quiet one
BURST = 500
# bytes after the image: more than a socket's buffers take at once
PADDING = 300_000


async def asked(port: int, request: bytes) -> bytes:
    """The whole answer to a request, sent while it is read; a reset raises."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 120)
    writer.close()
    return answer


@pytest.mark.parametrize("padding", [0, PADDING])
def test_a_burst_is_answered_with_predictions_or_when_to_try_again(
    server: Server,
    digit: bytes,
    padding: int,
) -> None:
    body = digit + bytes(padding)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(asked(server.port, head + body) for _ in range(BURST)))

    answers = asyncio.run(all_at_once())
    statuses = Counter(answer.split(b" ", 2)[1] for answer in answers)
    # 408: on a machine that is too busy to read all bodies in 30 s.
    assert statuses.keys() <= {b"200", b"408", b"503"} and statuses[b"200"] > 0, statuses
    busy = [answer for answer in answers if answer.split(b" ", 2)[1] == b"503"]
    assert all(b"\r\nretry-after: " in answer.lower() for answer in busy)


def test_a_head_of_three_megabytes_is_told_that_it_is_too_large(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 3_000_000 + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b'{"error": "the head of the request is too large"}')


def test_a_client_that_sends_on_for_ever_after_its_answer_is_closed(folder: Path) -> None:
    with running_with_limits(folder, "connections.LINGER_SECONDS=1", f"connections.LINGER_BYTES={1 << 20}") as started:
        # too much, and too long
        for pause in (0.0, 0.4):
            begun = time.monotonic()
            with started.connect() as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
                connection.sendall(b"\0\xff\x16\x03\x01")
                while time.monotonic() - begun < 20:
                    connection.sendall(b"a" * (65536 if not pause else 1))
                    time.sleep(pause)
        assert "it sent on and on what was refused" in started.output


def test_a_form_is_told_what_is_accepted(
    server: Server,
    folder: Path,
    digit: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + digit + b"\r\n--x--\r\n"
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form)
    )
    answer = asyncio.run(asked(server.port, head + form))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"accepted are the bytes of the image file alone, as sent by: curl --data-binary @photo.jpg" in answer
    app = load_app(folder, monkeypatch)
    try:
        told = app.handler({"body": "", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, None)
    finally:
        app.DECODERS.close()
    assert told["statusCode"] == 415 and "--data-binary" in told["body"]
