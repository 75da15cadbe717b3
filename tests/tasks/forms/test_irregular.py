"""Pipes, sockets and devices in place of a file are refused at once: a pipe would be waited for for ever."""

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
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            here = os.open(path.parent, os.O_RDONLY)
            # a socket's path may have 107 bytes
            try:
                made.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)
    return path


@pytest.fixture
def in_time() -> Iterator[None]:
    """Opening a pipe ends by a signal alone."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    # The first start of a Prefect server alone takes 75 s on a slow machine.
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "command", "said"),
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
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    in_time: None,
    kind: str,
    name: str,
    command: list[str],
    said: str,
) -> None:
    path = irregular(tmp_path / name, kind)
    out = [] if command[0] == "show" else ["--out", str(tmp_path / "out")]
    assert cli.main([*(part.format(path=path) for part in command), *out]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert KINDS[kind] in line
    assert said in line
    assert str(path) in line
