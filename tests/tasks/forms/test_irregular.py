"""A pipe, a socket or a device in place of a file is refused at once: to read a pipe could take for ever."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from flows import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {"pipe": r"is a named pipe (FIFO)", "socket": "is a socket", "device": "is a device"}


def irregular(path: Path, kind: str) -> Path:
    """Make a pipe, a socket or a link to a device at this path."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            folder = os.open(path.parent, os.O_RDONLY)
            # The path of a socket has at most 107 bytes, so it is bound by way of the open folder.
            try:
                listener.bind(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
    return path


@pytest.fixture
def time_limit() -> Iterator[None]:
    """An alarm ends the test where it hangs, because only a signal interrupts the opening of a pipe."""

    def fail(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    # The first start of a Prefect server alone takes 75 s on a slow machine.
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("study.toml", ["show", "{path}"], "not a regular file; a study is a file in TOML"),
        ("model.onnx", ["bench", "{path}"], "not a regular file; accepted: ONNX"),
        ("model.onnx", ["profile", "{path}"], "not a regular file; accepted: ONNX"),
        (
            "data",
            ["run", "quickstart", "--set", "data.path={path}"],
            "which holds no data set; give a folder or a file",
        ),
        (
            "a.pth",
            ["run", "quickstart", "--set", "models=[{{name='lenet5', pretrained='{path}'}}]"],
            "not a regular file",
        ),
    ],
)
def test_a_pipe_socket_or_device_in_place_of_a_file_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    time_limit: None,
    kind: str,
    name: str,
    command: list[str],
    words: str,
) -> None:
    path = irregular(tmp_path / name, kind)
    out = [] if command[0] == "show" else ["--out", str(tmp_path / "out")]
    assert cli.main([*(part.format(path=path) for part in command), *out]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert KINDS[kind] in line
    assert words in line
    assert str(path) in line
