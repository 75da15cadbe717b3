"""Count requests and queries, and write the figures in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper ends of the intervals in which times are counted, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Upper ends of the intervals in which numbers of images are counted.
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Histogram:
    """How often a figure fell into each interval; `ends` are the intervals' upper ends, which belong to them."""

    def __init__(self, ends: tuple[float, ...]) -> None:
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, figure: float) -> None:
        """Count a figure."""
        place = sum(end < figure for end in self._ends)
        with self._lock:
            self._counts[place] += 1
            self._sum += figure

    def lines(self, name: str) -> list[str]:
        """Return the lines of the text format."""
        with self._lock:
            totals = list(accumulate(self._counts))
            sum_of_figures = self._sum
        ends = [*(f"{end:g}" for end in self._ends), "+Inf"]
        buckets = [f'{name}_bucket{{le="{end}"}} {total}' for end, total in zip(ends, totals, strict=True)]
        return [*buckets, f"{name}_sum {sum_of_figures!r}", f"{name}_count {totals[-1]}"]


class Metrics:
    """Figures about the requests for predictions.

    Attributes
    ----------
    in_flight
        Requests that are being answered at this moment.
    batches
        Number of images of each query of the model.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.batches = Histogram(IMAGES)
        self._seconds = Histogram(SECONDS)
        self._answers = Counter({200: 0})

    def answered(self, status: int, seconds: float) -> None:
        """Count a request that was answered with an HTTP status, this long after its head had arrived."""
        self._answers[status] += 1
        self._seconds.observe(seconds)

    def text(self) -> str:
        """Return all figures in the text format."""
        requests = "burnish_requests_total"
        answers = [f'{requests}{{status="{status}"}} {count}' for status, count in sorted(self._answers.items())]
        families = (
            (requests, "counter", "Requests for predictions, by the HTTP status of the answer.", answers),
            (
                "burnish_requests_in_flight",
                "gauge",
                "Requests for predictions that are being answered.",
                [f"burnish_requests_in_flight {self.in_flight}"],
            ),
            (
                "burnish_request_seconds",
                "histogram",
                "Time from a request's head to its answer.",
                self._seconds.lines("burnish_request_seconds"),
            ),
            (
                "burnish_batch_images",
                "histogram",
                "Images per query of the model.",
                self.batches.lines("burnish_batch_images"),
            ),
        )
        lines = [
            line
            for name, kind, text, samples in families
            for line in (f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples)
        ]
        return "\n".join(lines) + "\n"
