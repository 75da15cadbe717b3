"""The deployed server's pages: /metrics can be read by Prometheus, and the page for a photo loads nothing."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import Server, post, running_with_limits

if TYPE_CHECKING:
    from pathlib import Path


def metrics(server: Server) -> dict[str, float]:
    """Return the samples of /metrics: their names, with the labels' values, and their figures."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert {family.name: family.type for family in families} == {
        "burnish_requests": "counter",
        "burnish_requests_in_flight": "gauge",
        "burnish_request_seconds": "histogram",
        "burnish_batch_images": "histogram",
    }
    assert all(family.documentation for family in families)
    return {":".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples}


def test_metrics_count_requests_by_status_their_times_and_the_images_per_query(folder: Path, digit: bytes) -> None:
    with running_with_limits(folder, "bodies.BODY_SECONDS=3") as server:
        fresh = metrics(server)
        assert fresh["burnish_requests_total:200"] == 0
        for body in (digit, digit, digit, b"no image"):
            post(f"{server.url}/predict", body)
        with server.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
            deadline = time.monotonic() + 30
            while metrics(server)["burnish_requests_in_flight"] < 1:
                assert time.monotonic() < deadline
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        counted = metrics(server)
    assert {name: figure for name, figure in counted.items() if "requests" in name} == {
        "burnish_requests_total:200": 3,
        "burnish_requests_total:400": 1,
        "burnish_requests_total:408": 1,
        "burnish_requests_in_flight": 0,
    }
    assert counted["burnish_request_seconds_count"] == counted["burnish_request_seconds_bucket:+Inf"] == 5
    # The request whose body did not arrive was answered after 3 s.
    assert counted["burnish_request_seconds_sum"] > 2.9
    assert counted["burnish_request_seconds_bucket:2.5"] <= 4
    assert counted["burnish_batch_images_bucket:1"] == counted["burnish_batch_images_count"] == 3


def test_the_page_for_a_photo_loads_nothing_from_elsewhere(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/", timeout=30) as answer:
        page = answer.read().decode()
        policy = answer.headers["content-security-policy"]
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>lenet5/train/onnx</h1>" in page
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|//|@import|url\(", page.replace("  // A photo", ""))
    assert re.findall(r"<(?:link|iframe|script src|form)", page) == []
