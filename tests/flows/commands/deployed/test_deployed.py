"""The deployed server under attack: image bombs, floods, slow and vanishing clients, and malformed HTTP."""

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


def raw_answer(server: Server, request: bytes) -> bytes:
    """Return all that the server answers to these bytes, which need not be HTTP, until it closes the connection."""
    answer = b""
    with server.connect() as connection:
        connection.sendall(request)
        while part := connection.recv(65536):
            answer += part
    return answer


def process_ids(pid: int) -> list[int]:
    """Return the ids of a process and of its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def peak_memory(pid: int) -> int:
    """Return the sum of the peak resident memory of a process and of each of its children, in bytes."""
    total = 0
    for process_id in process_ids(pid):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
        # A process that has ended has no such line.
        total += int(match[1]) * 1024 if match else 0
    return total


def flood(server: Server, body: bytes, count: int) -> Counter[Any]:
    """Send `count` requests at once, and return how often each status was answered."""
    statuses: Counter[Any] = Counter()

    def send() -> None:
        statuses[post(f"{server.url}/predict", body)[0]] += 1

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@pytest.mark.parametrize("kind", bombs.PIXELS)
def test_an_image_with_more_pixels_than_fit_into_memory_is_refused_before_decoding(server: Server, kind: str) -> None:
    status, answer = post(f"{server.url}/predict", bombs.PIXELS[kind]())
    assert status == 413, answer
    assert "megapixels is accepted" in answer["error"]
    assert peak_memory(server.process.pid) < 400 * MEBIBYTE


def test_a_webp_that_needs_too_much_memory_is_answered_with_413_a_damaged_one_with_400(
    server: Server,
) -> None:
    """The WebP library gives the same reason for both: could not create decoder object."""
    pixel_limit = re.search(r"images of up to ([\d.]+) megapixels", server.output)
    assert pixel_limit
    large = bombs.webp_whole(int(0.95 * (1e6 * float(pixel_limit[1])) ** 0.5))
    status, answer = post(f"{server.url}/predict", large)
    assert (status, answer["error"][:45]) == (413, "the image needs more memory than it is given;")
    small = bombs.webp_whole(64)
    assert post(f"{server.url}/predict", small)[0] == 200
    status, answer = post(f"{server.url}/predict", small[: len(small) // 2])
    assert (status, answer["error"]) == (400, "undecodable image: could not create decoder object")


@pytest.mark.parametrize(
    ("kind", "statuses"), [("text", {400}), ("profile", {400}), ("segments", {413}), ("scans", {413})]
)
def test_a_bomb_in_metadata_or_in_decoding_time_ends_one_decoder_and_not_the_server(
    server: Server, digit: bytes, kind: str, statuses: set[int]
) -> None:
    status, answer = post(f"{server.url}/predict", bombs.METADATA[kind]())
    assert status in statuses, answer
    assert peak_memory(server.process.pid) < 400 * MEBIBYTE
    assert post(f"{server.url}/predict", digit)[0] == 200


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_classified_by_its_first_frame(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 0)).save(file, kind, lossless=True)
    expected = post(f"{server.url}/predict", file.getvalue())
    assert expected[0] == 200
    assert post(f"{server.url}/predict", bombs.animated(kind)) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_whole_image_of_every_format_is_classified_and_a_truncated_one_is_refused(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(file, kind)
    whole = file.getvalue()
    assert post(f"{server.url}/predict", whole)[0] == 200
    for length in (8, len(whole) // 3):
        status, answer = post(f"{server.url}/predict", whole[:length])
        assert status == 400, answer
        assert "\n" not in answer["error"]


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "JPEG2000", "ICO", "TGA", "EPS"])
def test_an_image_of_another_format_is_refused_with_the_accepted_formats(server: Server, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    status, answer = post(f"{server.url}/predict", file.getvalue())
    assert status == 400
    assert "accepted: JPEG, PNG, WEBP, BMP, GIF" in answer["error"]


def test_a_server_limited_to_512_mib_survives_200_bombs_at_once(folder: Path, digit: bytes) -> None:
    # It has nearly as many pixels as are accepted with 512 MiB, so that each copy is decoded.
    large_image = bombs.png(3000)
    with group("memory", 512 * MEBIBYTE) as cgroup:
        with running(folder, prefix=join_command(cgroup)) as server:
            server_process = server.process.pid
            for body in (bombs.PIXELS["png"](), large_image):
                statuses = flood(server, body, 200)
                assert set(statuses) <= {200, 413, 503}, statuses
                assert post(f"{server.url}/predict", digit)[0] == 200
            assert server.process.poll() is None
            assert process_ids(server_process)[0] == server_process
        events = next(cgroup / name for name in ("memory.events", "memory.oom_control") if (cgroup / name).exists())
        assert re.search(r"^oom_kill 0$", events.read_text(), re.M), events.read_text()
    assert "Traceback" not in server.output


def test_200_large_images_at_once_stay_within_the_memory_that_the_server_sees_as_free(
    server: Server, digit: bytes
) -> None:
    statuses = flood(server, bombs.png(2000), 200)
    # 413 is possible because the time for decoding may run out on a busy machine.
    assert set(statuses) <= {200, 413, 503}, statuses
    assert statuses[200] > 0
    assert peak_memory(server.process.pid) < 400 * MEBIBYTE
    assert post(f"{server.url}/predict", digit)[0] == 200


def test_a_request_whose_body_does_not_arrive_is_answered_with_408(server: Server) -> None:
    started = time.monotonic()
    answer = raw_answer(server, b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 1.5 s" in answer
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("head", [b"", b"POST /predict HT", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /hea"])
def test_a_connection_whose_request_head_does_not_arrive_is_closed(server: Server, head: bytes) -> None:
    started = time.monotonic()
    answer = raw_answer(server, head)
    assert answer.count(b"HTTP/1.1 200") == head.count(b"healthz")
    assert time.monotonic() - started < 20


def test_health_checks_are_answered_despite_idle_connections_and_too_many_requests(folder: Path, digit: bytes) -> None:
    """A head may take a minute here, so that connections are not closed because their time for it is over."""
    limits = ("connections.HEADER_SECONDS=60", "app.REQUESTS=2")
    with running_with_limits(folder, *limits) as server, ExitStack() as connections:
        for number in range(600):
            connection = connections.enter_context(server.connect())
            connection.sendall(b"" if number % 2 else b"POST /predict HT")
        # Each connection is kept for connections.GRACE_SECONDS = 1, however many wait.
        time.sleep(1.1)
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=30) as answer:
            assert answer.status == 200
        assert post(f"{server.url}/predict", digit)[0] == 200
        assert server.output.count("too many connections wait without a request") >= 600 - 512
        for _ in range(2):
            upload = connections.enter_context(server.connect())
            upload.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
        time.sleep(0.5)
        lines_before = server.output.count("\n")
        status, refusal = post(f"{server.url}/predict", digit)
        assert (status, refusal["error"]) == (503, "too many images at once; try again")
        assert server.output.count("\n") - lines_before <= 2, (
            "one line for the answer, and one for a connection that was closed to make room"
        )
        assert '"POST /predict HTTP/1.1" 503' in server.output
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=30) as answer:
            assert answer.status == 200


def test_a_client_that_vanishes_while_it_sends_an_image_is_logged_in_one_line(server: Server, digit: bytes) -> None:
    lines_before = server.output.count("\n")
    for body in (b"", digit[:30]):
        with server.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + body)
            time.sleep(0.2)
            # The connection is reset (RST) and not closed (FIN), so that the client accepts no answer any more.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 20
    while server.output.count("went away") < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "went away after 30 bytes of its image file" in server.output
    assert server.output.count("\n") == lines_before + 2
    assert "Traceback" not in server.output


def test_malformed_and_unusual_requests_are_answered_with_the_right_status(server: Server, digit: bytes) -> None:
    length = str(len(digit)).encode()
    close = b"Host: a\r\nConnection: close\r\n"
    for request, status in (
        (b"\0\xff\x16\x03\x01", b"400"),
        (b"GET /none HTTP/9.9\r\n\r\n", b"404"),
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


def test_requests_that_are_pipelined_on_one_connection_are_all_answered(server: Server, digit: bytes) -> None:
    request = b"POST /predict?top=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(digit), digit)
    answer = raw_answer(server, request * 5 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 6
    assert answer.count(b'"predictions"') == 5


@pytest.mark.parametrize("top", ["-1", "0", "1e9", "nan", "", "%00", "9" * 5000, "1.5", "<script>"])
def test_a_bad_value_of_top_is_refused_in_one_short_line(server: Server, digit: bytes, top: str) -> None:
    status, answer = post(f"{server.url}/predict?top={top}", digit)
    assert status == 400
    assert answer["error"].startswith("top: a whole number from 1 was expected, got ")
    assert len(answer["error"]) < 150


def test_top_may_exceed_the_number_of_classes(server: Server, digit: bytes) -> None:
    status, answer = post(f"{server.url}/predict?top=1000000000&top=3&other=1", digit)
    assert (status, len(answer["predictions"])) in ((200, 3), (200, 10))


def test_an_answer_is_strict_json_without_nan_or_infinity(server: Server, digit: bytes) -> None:
    body = raw_answer(
        server,
        b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(digit), digit),
    ).partition(b"\r\n\r\n")[2]
    answer = json.loads(body, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert sum(prediction["probability"] for prediction in answer["predictions"]) <= 1 + 1e-9


@pytest.mark.parametrize(("variables", "address"), [({}, "0100007F"), ({"HOST": "0.0.0.0"}, "00000000")])
def test_the_server_listens_on_this_machine_alone_unless_host_is_set(
    folder: Path, variables: dict[str, str], address: str
) -> None:
    with running(folder, **variables) as server:
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        ]
    assert f"{address}:{server.port:04X}" in listening
    assert "HOST=0.0.0.0" in (folder / "Dockerfile").read_text()


def test_the_decoder_processes_end_when_the_server_is_killed(folder: Path) -> None:
    # The error is raised by `running`, which expects that the server was not killed.
    with pytest.raises(AssertionError), running(folder) as server:
        decoders = process_ids(server.process.pid)[1:]
        assert decoders
        server.process.kill()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in decoders) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not [pid for pid in decoders if Path(f"/proc/{pid}").exists()]


def test_a_damaged_folder_or_an_unusable_port_ends_the_server_with_one_line(folder: Path, tmp_path: Path) -> None:
    def error_line(code: int, **environment: str) -> str:
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
        assert error_line(2, PORT=port) == f"PORT={port!r} is no port; accepted is a whole number from 1 to 65535\n"
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        line = (
            f"cannot listen on 127.0.0.1, port {port}: Address already in use; HOST and PORT choose another address\n"
        )
        assert error_line(2, PORT=str(port)) == line
    model = copy / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0x55
    model.write_bytes(content)
    assert "model.onnx is not the file that was deployed" in error_line(1)
    model.unlink()
    assert "is damaged" in error_line(1)
    (copy / "model.json").write_text("{")
    assert "burnish deploy writes it anew" in error_line(1)


def test_an_image_is_classified_after_all_decoder_processes_were_killed(server: Server, digit: bytes) -> None:
    import signal

    for pid in process_ids(server.process.pid)[1:]:
        os.kill(pid, signal.SIGKILL)
    assert post(f"{server.url}/predict", digit)[0] == 200
