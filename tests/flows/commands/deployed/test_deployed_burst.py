"""The deployed server answers all clients of a burst, and clients that it refuses while they still send."""

from __future__ import annotations

import asyncio
import importlib
import socket
import struct
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

import h11
import pytest

from tests.support.servers import Server, load_app, running_with_limits

if TYPE_CHECKING:
    from pathlib import Path

# Clients at once. On a slow machine all of them wait, so there are fewer than connections.WAITING, which is 512. On a
# quiet machine 900 were answered.
BURST = 500
# Bytes after the image: more than the buffers of a socket hold.
PADDING = 300_000


async def answer_to(port: int, request: bytes) -> bytes:
    """Send a request and return the whole answer. A connection that the server resets raises an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 120)
    writer.close()
    return answer


@pytest.mark.parametrize("padding", [0, PADDING])
def test_every_client_of_a_burst_gets_a_prediction_or_the_time_to_try_again(
    patient_server: Server,
    digit: bytes,
    padding: int,
) -> None:
    body = digit + bytes(padding)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(answer_to(patient_server.port, head + body) for _ in range(BURST)))

    answers = asyncio.run(all_at_once())
    statuses = Counter(answer.split(b" ", 2)[1] for answer in answers)
    assert statuses.keys() <= {b"200", b"503"} and statuses[b"200"] > 0, statuses
    refusals = [answer for answer in answers if answer.split(b" ", 2)[1] == b"503"]
    assert all(b"\r\nretry-after: " in answer.lower() for answer in refusals)


def test_a_request_head_of_3_mb_is_refused_as_too_large(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 3_000_000 + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b'{"error": "the head of the request is too large"}')


def test_a_client_that_keeps_sending_after_it_was_refused_is_disconnected(folder: Path) -> None:
    with running_with_limits(folder, "connections.LINGER_SECONDS=1", f"connections.LINGER_BYTES={1 << 20}") as server:
        # Without a pause the client sends too much, and with a pause it sends for too long.
        for pause in (0.0, 0.4):
            started = time.monotonic()
            with server.connect() as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
                connection.sendall(b"\0\xff\x16\x03\x01")
                while time.monotonic() - started < 20:
                    connection.sendall(b"a" * (65536 if not pause else 1))
                    time.sleep(pause)
        assert "it sent on and on what was refused" in server.output


def test_a_connection_that_its_client_resets_while_it_is_refused_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    connections = importlib.import_module("connections")
    # What _Lingering reads of a connection whose client still sends the body of its request.
    protocol = SimpleNamespace(conn=SimpleNamespace(their_state=h11.SEND_BODY), lingers=False)

    async def reset_then_close() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                asyncio.Protocol, listener.accept()[0]
            )
        # To close with a linger time of 0 s sends a reset.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        lingering = connections._Lingering(transport, protocol)
        lingering.close()
        return bool(transport.is_closing())

    assert asyncio.run(reset_then_close())


def test_an_uploaded_form_is_refused_with_how_to_send_an_image(
    patient_server: Server,
    folder: Path,
    digit: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + digit + b"\r\n--x--\r\n"
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form)
    )
    answer = asyncio.run(answer_to(patient_server.port, head + form))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"accepted are the bytes of the image file alone, as sent by: curl --data-binary @photo.jpg" in answer
    app = load_app(folder, monkeypatch)
    try:
        handler_answer = app.handler({"body": "", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, None)
    finally:
        app.DECODERS.close()
    assert handler_answer["statusCode"] == 415 and "--data-binary" in handler_answer["body"]
