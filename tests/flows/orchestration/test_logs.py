"""The traceback of a failed flow run: of the first cause, from where Prefect calls the project."""

from __future__ import annotations

import traceback

from flows.logs import _where

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


def told(function):
    try:
        PREFECT["call"](function)
    except Exception as error:
        return "".join(traceback.format_exception(*_where(error)))
    raise AssertionError("it did not fail")


def test_the_cause_is_shown_without_prefects_own_frames():
    text = told(study)
    assert text.count("Traceback") == 1
    assert "in stage" in text and text.endswith("ValueError: the cause\n")
    assert "prefect" not in text


def test_what_fails_in_prefect_is_shown_whole():
    text = told(PREFECT["fail"])
    assert "/env/prefect/engine.py" in text and "/env/prefect/client.py" in text
    assert "in told" in text
