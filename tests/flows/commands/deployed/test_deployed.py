"""The deployed server under attack: bombs, floods, slow and vanishing clients, and what is no HTTP."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import bombs
from tests.support.groups import group, join_command
from tests.support.servers import Server, post, running, running_with_limits

MEBIBYTE = 1 << 20


def raw(server: Server, request: bytes) -> bytes:
    """What the server answers to bytes that need not be HTTP, until it closes the connection."""
    answer = b""
    with server.connect() as connection:
        connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return answer


def processes(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def peak(pid: int) -> int:
    """Most resident bytes of a process and those of its children, each at its own worst moment."""
    found = 0
    for one in processes(pid):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
        # a process that has ended has none
        found += int(match[1]) * 1024 if match else 0
    return found


def flood(server: Server, body: bytes, count: int) -> Counter[Any]:
    """Statuses of so many requests at once."""
    seen: Counter[Any] = Counter()

    def one() -> None:
        seen[post(f"{server.url}/predict", body)[0]] += 1

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


@pytest.mark.parametrize("kind", bombs.PIXELS)
def test_more_pixels_than_there_is_memory_for_are_refused_before_they_are_decoded(server: Server, kind: str) -> None:
    status, answer = post(f"{server.url}/predict", bombs.PIXELS[kind]())
    assert status == 413, answer
    assert "megapixels is accepted" in answer["error"]
    assert peak(server.process.pid) < 400 * MEBIBYTE


def test_a_webp_within_the_limit_of_pixels_that_needs_more_memory_is_too_large_and_a_damaged_one_is_not(
    server: Server,
) -> None:
    """Its library says the same of both: could not create decoder object."""
    allowed = re.search(r"images of up to ([\d.]+) megapixels", server.output)
    assert allowed
    large = bombs.webp_whole(int(0.95 * (1e6 * float(allowed[1])) ** 0.5))
    status, answer = post(f"{server.url}/predict", large)
    assert (status, answer["error"][:45]) == (413, "the image needs more memory than it is given;")
    small = bombs.webp_whole(64)
    assert post(f"{server.url}/predict", small)[0] == 200
    status, answer = post(f"{server.url}/predict", small[: len(small) // 2])
    assert (status, answer["error"]) == (400, "undecodable image: could not create decoder object")


@pytest.mark.parametrize(
    ("kind", "statuses"), [("text", {400}), ("profile", {400}), ("segments", {413}), ("scans", {413})]
)
def test_bombs_in_metadata_and_in_time_end_with_the_decoder_alone(
    server: Server, digit: bytes, kind: str, statuses: set[int]
) -> None:
    status, answer = post(f"{server.url}/predict", bombs.METADATA[kind]())
    assert status in statuses, answer
    assert peak(server.process.pid) < 400 * MEBIBYTE
    assert post(f"{server.url}/predict", digit)[0] == 200


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_what_counts(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 0)).save(file, kind, lossless=True)
    want = post(f"{server.url}/predict", file.getvalue())
    assert want[0] == 200
    assert post(f"{server.url}/predict", bombs.animated(kind)) == want


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_every_format_is_answered_whole_and_refused_in_part(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(file, kind)
    whole = file.getvalue()
    assert post(f"{server.url}/predict", whole)[0] == 200
    for length in (8, len(whole) // 3):
        status, answer = post(f"{server.url}/predict", whole[:length])
        assert status == 400, answer
        assert "\n" not in answer["error"]


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "JPEG2000", "ICO", "TGA", "EPS"])
def test_other_formats_are_refused(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    status, answer = post(f"{server.url}/predict", file.getvalue())
    assert status == 400
    assert "accepted: JPEG, PNG, WEBP, BMP, GIF" in answer["error"]


def test_a_container_of_512_mb_survives_two_hundred_bombs_at_once(folder: Path, digit: bytes) -> None:
    # as many pixels as are accepted there, nearly: each is decoded
    large = bombs.png(3000)
    with group("memory", 512 * MEBIBYTE) as made:
        with running(folder, prefix=join_command(made)) as server:
            begun = server.process.pid
            for body in (bombs.PIXELS["png"](), large):
                seen = flood(server, body, 200)
                assert set(seen) <= {200, 413, 503}, seen
                assert post(f"{server.url}/predict", digit)[0] == 200
            assert server.process.poll() is None
            assert processes(begun)[0] == begun
        events = next(made / name for name in ("memory.events", "memory.oom_control") if (made / name).exists())
        assert re.search(r"^oom_kill 0$", events.read_text(), re.M), events.read_text()
    assert "Traceback" not in server.output


def test_two_hundred_bombs_at_once_stay_within_the_memory_that_is_told_to_be_free(server: Server, digit: bytes) -> None:
    seen = flood(server, bombs.png(2000), 200)
    # 413: on a busy machine its time to decode may run out
    assert set(seen) <= {200, 413, 503}, seen
    assert seen[200] > 0
    assert peak(server.process.pid) < 400 * MEBIBYTE
    assert post(f"{server.url}/predict", digit)[0] == 200


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    begun = time.monotonic()
    answer = raw(server, b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 1.5 s" in answer
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("head", [b"", b"POST /predict HT", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea"])
def test_a_head_that_does_not_come_is_given_up(server: Server, head: bytes) -> None:
    begun = time.monotonic()
    answer = raw(server, head)
    assert answer.count(b"HTTP/1.1 200") == head.count(b"healthz")
    assert time.monotonic() - begun < 20


def test_connections_that_send_nothing_and_requests_at_the_limit_keep_no_health_check_out(
    folder: Path, digit: bytes
) -> None:
    """Heads may take a minute here, so that what makes room is not that their time is over."""
    limits = ("connections.HEADER_SECONDS=60", "app.REQUESTS=2")
    with running_with_limits(folder, *limits) as server, ExitStack() as held:
        for number in range(600):
            connection = held.enter_context(server.connect())
            connection.sendall(b"" if number % 2 else b"POST /predict HT")
        # a burst has a second
        time.sleep(1.1)
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=30) as answer:
            assert answer.status == 200
        assert post(f"{server.url}/predict", digit)[0] == 200
        assert server.output.count("too many connections wait without a request") >= 600 - 512
        for _ in range(2):
            body = held.enter_context(server.connect())
            body.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        time.sleep(0.5)
        before = server.output.count("\n")
        status, told = post(f"{server.url}/predict", digit)
        assert (status, told["error"]) == (503, "too many images at once; try again")
        assert server.output.count("\n") - before <= 2, "the answer, and a connection that made room for it"
        assert '"POST /predict HTTP/1.1" 503' in server.output
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=30) as answer:
            assert answer.status == 200


def test_a_client_that_goes_away_is_one_line(server: Server, digit: bytes) -> None:
    before = server.output.count("\n")
    for body in (b"", digit[:30]):
        with server.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + body)
            time.sleep(0.2)
            # RST, not FIN: nothing that it is sent is taken any more
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 20
    while server.output.count("went away") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "went away after 30 bytes of its image file" in server.output
    assert server.output.count("\n") == before + 2
    assert "Traceback" not in server.output


def test_what_is_no_request_is_answered_or_closed(server: Server, digit: bytes) -> None:
    length = str(len(digit)).encode()
    close = b"Host: a\r\nConnection: close\r\n"
    for request, status in (
        (b"\0\xff\x16\x03\x01", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.1\r\n" + close + b"X: " + b"a" * 200_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 200_000, b"431"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Content-Length: -1\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Content-Length: abc\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Content-Length: 99999999999999999\r\n\r\n", b"413"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"PUT /predict HTTP/1.1\r\n" + close + b"\r\n", b"405"),
        (b"HEAD /healthz HTTP/1.1\r\n" + close + b"\r\n", b"200"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n" + close + b"\r\n", b"404"),
        (b"POST /predict HTTP/1.1\r\n" + close + b"Content-Length: " + length + b"\r\n\r\n" + digit, b"200"),
        (
            b"POST /predict HTTP/1.1\r\n"
            + close
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"1\r\n" + digit[i : i + 1] + b"\r\n" for i in range(len(digit)))
            + b"0\r\n\r\n",
            b"200",
        ),
    ):
        with server.connect() as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.split(b" ", 2)[1] == status, (request[:80], answer)
    assert post(f"{server.url}/predict", digit)[0] == 200


def test_requests_in_a_row_are_answered_in_a_row(server: Server, digit: bytes) -> None:
    one = b"POST /predict?top=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(digit), digit)
    answer = raw(server, one * 5 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 6
    assert answer.count(b'"predictions"') == 5


@pytest.mark.parametrize("top", ["-1", "0", "1e9", "nan", "", "%00", "9" * 5000, "1.5", "<script>"])
def test_a_number_of_classes_that_is_none_is_one_short_line(server: Server, digit: bytes, top: str) -> None:
    status, answer = post(f"{server.url}/predict?top={top}", digit)
    assert status == 400
    assert answer["error"].startswith("top: a whole number from 1 was expected, got ")
    assert len(answer["error"]) < 150


def test_more_classes_than_there_are_is_all_of_them(server: Server, digit: bytes) -> None:
    status, answer = post(f"{server.url}/predict?top=1000000000&top=3&other=1", digit)
    assert (status, len(answer["predictions"])) in ((200, 3), (200, 10))


def test_an_answer_is_json_that_a_strict_reader_takes(server: Server, digit: bytes) -> None:
    body = raw(
        server,
        b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(digit), digit),
    ).partition(b"\r\n\r\n")[2]
    found = json.loads(body, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert sum(one["probability"] for one in found["predictions"]) <= 1 + 1e-9


@pytest.mark.parametrize(("variables", "address"), [({}, "0100007F"), ({"HOST": "0.0.0.0"}, "00000000")])
def test_it_listens_on_this_machine_alone_unless_told_otherwise(
    folder: Path, variables: dict[str, str], address: str
) -> None:
    with running(folder, **variables) as server:
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        ]
    assert f"{address}:{server.port:04X}" in listening
    assert "HOST=0.0.0.0" in (folder / "Dockerfile").read_text()


def test_the_decoders_end_with_the_server_however_it_ends(folder: Path) -> None:
    # its own check of the exit code
    with pytest.raises(AssertionError), running(folder) as server:
        decoders = processes(server.process.pid)[1:]
        assert decoders
        server.process.kill()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in decoders) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not [pid for pid in decoders if Path(f"/proc/{pid}").exists()]


def test_a_folder_that_is_damaged_and_a_port_that_is_none_are_one_line(folder: Path, tmp_path: Path) -> None:
    def said(code: int, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "app.py"],
            cwd=copy,
            env=os.environ | environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        return done.stderr

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for port in ("abc", "", "-1", "99999"):
        assert said(2, PORT=port) == f"PORT={port!r} is no port; accepted is a whole number from 1 to 65535\n"
    model = copy / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0x55
    model.write_bytes(content)
    assert "model.onnx is not the file that was deployed" in said(1)
    model.unlink()
    assert "is damaged" in said(1)
    (copy / "model.json").write_text("{")
    assert "burnish deploy writes it anew" in said(1)


def test_an_image_is_answered_although_its_decoder_was_killed_before(server: Server, digit: bytes) -> None:
    import signal

    for pid in processes(server.process.pid)[1:]:
        os.kill(pid, signal.SIGKILL)
    assert post(f"{server.url}/predict", digit)[0] == 200
