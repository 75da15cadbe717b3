"""The traceback of a failed flow run shows the first cause, from where Prefect calls the project."""

from __future__ import annotations

import traceback

from flows.logs import _where

# Two functions whose frames look as if they stood in files of Prefect.
PREFECT: dict = {}
exec(compile("def call(f):\n    return f()\n", "/env/prefect/engine.py", "exec"), PREFECT)
exec(compile("def fail():\n    raise OSError('away')\n", "/env/prefect/client.py", "exec"), PREFECT)


def stage():
    raise ValueError("the cause")


def study():
    try:
        PREFECT["call"](stage)
    except ValueError as error:
        raise RuntimeError("no variant to measure") from error


def traceback_of(function):
    """Return the traceback that the log shows when Prefect calls this function."""
    try:
        PREFECT["call"](function)
    except Exception as error:
        return "".join(traceback.format_exception(*_where(error)))
    raise AssertionError("it did not fail")


def test_the_traceback_shows_the_first_cause_without_frames_of_prefect():
    text = traceback_of(study)
    assert text.count("Traceback") == 1
    assert "in stage" in text and text.endswith("ValueError: the cause\n")
    assert "prefect" not in text


def test_the_traceback_of_an_error_in_prefect_shows_all_frames():
    text = traceback_of(PREFECT["fail"])
    assert "/env/prefect/engine.py" in text and "/env/prefect/client.py" in text
    assert "in traceback_of" in text
