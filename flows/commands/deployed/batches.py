"""Put the images of requests that arrive at the same time into one query."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    from model import Model

# The longest time, in seconds, that a query waits for more images, and only while other requests are being answered.
WAIT_SECONDS = 0.002
# Greatest number of images in a query.
MOST = 32


class _Batch:
    """Images that go into one query."""

    def __init__(self) -> None:
        self.inputs: list[numpy.ndarray] = []
        self.full = threading.Event()
        self.done = threading.Event()
        self.logits: numpy.ndarray | None = None
        self.error: BaseException | None = None


class Batches:
    """Answers queries of one image each, several of them in one query of the model.

    The thread whose image is the first of a batch makes the query for all. While it waits for the model, which answers
    an earlier query, images of other threads join it.

    Parameters
    ----------
    model
        The model, which takes any number of images per query.
    most
        Greatest number of images in a query. 1 means that each image has a query of its own.
    expected
        Returns how many requests are being answered at this moment, so that a lonely one waits for nobody.
    observe
        Is told the number of images of each query.
    """

    def __init__(self, model: Model, most: int, *, expected: Callable[[], int], observe: Callable[[int], None]) -> None:
        self._model = model
        self._most = most
        self._expected = expected
        self._observe = observe
        self._lock = threading.Lock()
        self._open: _Batch | None = None

    def logits(self, inputs: numpy.ndarray) -> numpy.ndarray:
        """Return the logits, (1, classes), of a normalised image: float32, (1, channels, height, width)."""
        with self._lock:
            batch = self._open
            leads = batch is None
            if batch is None:
                batch = self._open = _Batch()
            place = len(batch.inputs)
            batch.inputs.append(inputs)
            if len(batch.inputs) == self._most:
                self._open = None
                batch.full.set()
        if leads:
            self._answer(batch)
        else:
            batch.done.wait()
        if batch.error is not None:
            raise batch.error
        assert batch.logits is not None
        return batch.logits[place : place + 1]

    def _answer(self, batch: _Batch) -> None:
        """Wait for the model, and a moment for more images, and make the query of a batch."""
        try:
            with self._model.turn():
                if self._expected() > len(batch.inputs):
                    batch.full.wait(WAIT_SECONDS)
                with self._lock:
                    if self._open is batch:
                        self._open = None
                self._observe(len(batch.inputs))
                batch.logits = self._model.query(numpy.concatenate(batch.inputs))
        except BaseException as error:
            # Every thread of the batch raises it.
            batch.error = error
        finally:
            batch.done.set()
