"""A runtime without a model, whose queries last as long as a file says. It shows what measuring does to the figures.

The file is JSON: `{"milliseconds": [1.0, 2.5], "classes": 10, "per_image_milliseconds": 0.0}`. Each query lasts as long
as the next entry of `milliseconds` says, plus `per_image_milliseconds` (may be left out) for each image. A session
begins at a random entry, and after the last entry it continues with the first.
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
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    milliseconds: Annotated[list[Milliseconds], Field(min_length=1)]
    classes: Annotated[int, Field(ge=1)]
    per_image_milliseconds: Milliseconds = 0.0


def unavailable(device: str) -> str | None:
    """Return why the null runtime cannot run on `device`, or None where it can."""
    return None if device == "cpu" else f"the null runtime runs on cpu only, asked for {device}"


def load_library(device: str) -> None:
    """Do nothing, because there is no library."""


class Session:
    """A place in the file's list. A query keeps its thread busy, as the call of a library that computes does."""

    split = None
    provider = "null (cpu)"

    def __init__(self, program: Program, slots: int) -> None:
        self._program = program
        self._slots = slots
        self._ns = [round(ms * 1e6) for ms in program.milliseconds]
        # It is random, because otherwise each fresh process would have the same error.
        self._next = random.randrange(len(self._ns))

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return float32 (batch, classes), 1 for the first class and 0 for the others, for inputs (batch, ...)."""
        end = perf_counter_ns() + self._ns[self._next] + round(self._program.per_image_milliseconds * 1e6) * len(inputs)
        self._next = (self._next + 1) % len(self._ns)
        answer = np.zeros((len(inputs), self._program.classes), np.float32)
        answer[:, 0] = 1
        while perf_counter_ns() < end:
            if self._slots > 1:
                # Other slots get the interpreter's lock now, for which they would otherwise wait up to 5 ms.
                os.sched_yield()
        return answer

    def fork(self) -> Session:
        """Return another session, at another place in the list."""
        return Session(self._program, self._slots)

    def close(self) -> None:
        """Do nothing, because nothing is held."""


def open(path: Path, device: str, batch_size: int, threads: int, slots: int = 1) -> Session:
    """Open a file that says how long queries last.

    Raises
    ------
    ValueError
        If the file is not JSON, or its content is not as described above. The message is one line.
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
        # It comes from json, or from decoding bytes that are not text.
        raise ValueError(f"{path.name} is not JSON: {error}") from error
