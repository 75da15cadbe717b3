"""Why a library failed, in one line: found in its message, where each library puts it in another place."""

from __future__ import annotations

import re

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PLACE = re.compile(r"/\S+\.(?:cc|cpp|h):\d+ [\w:~<>]+\([^()]*\)\s*(?:const )?")
"""How ONNX Runtime names a place in its source: file, line and the function with its arguments."""
STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
WRAPPERS = ("Exception from ", "Check '", "FrontEnd API failed", "While validating ", "Model wasn't fully converted")
"""Beginnings of the lines in which OpenVINO says where it was, not what was wrong."""
CLASSES = re.compile(
    r"^(RuntimeError|ValueError|Fail|InvalidArgument|InvalidGraph|InvalidProtobuf|NotImplemented|RuntimeException): "
)
"""Names of exceptions that say no more than that something failed; but for the first two they are ONNX Runtime's."""
LONGEST = 400
"""Characters of a cause, at most."""


def cause(error: BaseException) -> str:
    """Return what was wrong, in one line, without stack traces and places in the library's source."""
    lines = [line.strip() for line in COLOUR.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        words = re.sub(r"^\w+(Error|Exception): ", "", lines[-1])
    elif lines[0].startswith("[ONNXRuntimeError]"):
        words = " ".join(PLACE.sub(" ", STATUS.sub("", " ".join(lines))).split())
    elif lines[0].startswith("Exception from "):
        words = _openvino(lines)
    else:
        words = lines[0]
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 3]}..."


def without_class(text: str) -> str:
    """Return a failure's text without the name of an exception at its beginning, where that name says nothing."""
    return CLASSES.sub("", text)


def _openvino(lines: list[str]) -> str:
    """Return the reason that OpenVINO gives after naming the places that it went through.

    Where several operators could not be converted, it is the reason of the first, after that operator's name.
    """
    starts = [number for number, line in enumerate(lines) if line.startswith("-- ")]
    operator = ""
    if starts:
        operator = lines[starts[0]].removeprefix("-- ").partition(" with a message")[0] + ": "
        ends = [*starts[1:], *(number for number, line in enumerate(lines) if line == "Summary:"), len(lines)]
        lines = lines[starts[0] + 1 : min(ends)] or lines
    reasons = [line for line in lines if not line.startswith(WRAPPERS)]
    return operator + (reasons or lines)[-1]
