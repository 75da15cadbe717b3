"""No model: queries that last as long as a file says, so that what measuring does to figures can be known.

The file is JSON: `{"milliseconds": [1.0, 2.5], "classes": 10, "per_image_milliseconds": 0.0}`. A query lasts the next
entry of `milliseconds` (the first of a session is drawn; after the last comes the first), plus `per_image_milliseconds`
(may be left out) for each image.
"""

from __future__ import annotations

import json
import os
import random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("null",)
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Program(BaseModel):
    """What the file says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    milliseconds: Annotated[list[Milliseconds], Field(min_length=1)]
    classes: Annotated[int, Field(ge=1)]
    per_image_milliseconds: Milliseconds = 0.0


def unavailable(device: str) -> str | None:
    """Why the null runtime cannot run on `device`, or None."""
    return None if device == "cpu" else f"the null runtime lasts as long as it is told on cpu only, asked for {device}"


def load_library(device: str) -> None:
    """Nothing to import."""


class Session:
    """A place in the program's list. Its thread is busy meanwhile, as in a library's call that waits for its result."""

    split = None
    provider = "null (cpu)"

    def __init__(self, program: Program, slots: int) -> None:
        self._program, self._slots = program, slots
        self._ns = [round(ms * 1e6) for ms in program.milliseconds]
        # or each fresh process would err alike
        self._next = random.randrange(len(self._ns))

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """(batch, ...) of any type -> float32 (batch, classes) in which the first class has 1 and the others 0."""
        end = perf_counter_ns() + self._ns[self._next] + round(self._program.per_image_milliseconds * 1e6) * len(inputs)
        self._next = (self._next + 1) % len(self._ns)
        answer = np.zeros((len(inputs), self._program.classes), np.float32)
        answer[:, 0] = 1
        while perf_counter_ns() < end:
            if self._slots > 1:
                # lets other slots have the interpreter's lock, which they could else wait 5 ms for
                os.sched_yield()
        return answer

    def fork(self) -> Session:
        """Another session, at another place in the list."""
        return Session(self._program, self._slots)

    def close(self) -> None:
        """Nothing to let go of."""


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a program.

    Raises
    ------
    ValueError
        If the file is not JSON, or not as described above; in one line.
    RuntimeError
        If `device` is not the CPU.
    """
    reason = unavailable(device)
    if reason:
        raise RuntimeError(reason)
    try:
        return Session(Program.model_validate(json.loads(path.read_bytes())), slots)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f'{path.name}: {place}: {first["msg"]}; expected {{"milliseconds": [1.5, ...], "classes": '
            f'10}} and, if wanted, "per_image_milliseconds": 0.1'
        ) from error
    except ValueError as error:
        # of json, or of decoding what is no text
        raise ValueError(f"{path.name} is not JSON: {error}") from error
