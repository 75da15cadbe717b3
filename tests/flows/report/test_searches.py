"""The report's tables of the search, of the ranking of layers, and of the preparations that were tried."""

from __future__ import annotations

import json

from flows.report.searches import preparations, searches
from tasks.tables.frames import frame

TRIAL = {
    "form": "net/given/int8-u8s8-float2-openvino",
    "parent": "net/given",
    "trial": 1,
    "setting": "u8s8",
    "runtime": "openvino",
    "kept": 2,
    "look": 0.01,
    "divergence": 0.01,
    "drop": 0.004,
    "latency_ms": 1.9,
    "latencies": json.dumps({"openvino": 1.9}),
    "seconds": 4.2,
    "ended": "done",
}
FAILED = {
    **TRIAL,
    "trial": 2,
    "look": None,
    "divergence": None,
    "drop": None,
    "latency_ms": None,
    "ended": "failed",
    "error": "openvino does not execute it",
}
LAYER = {
    "form": "net/given/int8-u8s8",
    "runtime": "openvino",
    "rank": 1,
    "block": "blocks.0",
    "nodes": 3,
    "images": 64,
    "divergence": 0.01,
    "saved": 0.002,
    "latency": None,
}
CONFIGURATION = {
    "form": "net/given/int8-u8s8",
    "runtime": "openvino",
    "configuration": "1-thread",
    "threads": 1,
    "against": "usual",
    "ratio": 0.9,
    "rounds_faster": 7,
    "taken": True,
    "seconds": 1.2,
    "error": None,
}
TRY = {
    "model": "net",
    "number": 0,
    "order": "rgb",
    "layout": "nchw",
    "image_size": 224,
    "resize": 256,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25],
    "class_order": "in the data's order",
    "images": 200,
    "top1": 0.8,
    "chosen": True,
}


def test_trials_are_shown_with_what_they_were_and_how_they_ended() -> None:
    shown = searches({"search": frame("search", [TRIAL, FAILED]), "layers": frame("layers", [LAYER])})
    (trials,), (layers,) = shown["tried"], shown["layers"]
    texts = [[cell.text for cell in cells] for _, _, cells in trials.rows]
    assert texts[0][:5] == ["1", "u8s8", "2", "openvino", "1.90"]
    assert texts[0][-1] == "scored on all validation images"
    assert texts[1][-1] == "failed: openvino does not execute it"
    assert [cell.text for cell in layers.rows[0][2]][:3] == ["1", "blocks.0", "3"]


def test_configurations_are_shown_with_what_was_taken() -> None:
    failed = CONFIGURATION | {"configuration": "no-arena", "ratio": None, "taken": False, "error": "no memory"}
    (shown,) = searches({"configurations": frame("configurations", [CONFIGURATION, failed])})["configurations"]
    texts = [[cell.text for cell in cells] for _, _, cells in shown.rows]
    assert texts == [["1-thread", "usual", "0.900", "7", "yes"], ["no-arena", "usual", "–", "7", "failed: no memory"]]


def test_a_run_without_a_search_shows_none() -> None:
    assert searches({}) == {"tried": [], "layers": [], "configurations": []}
    assert searches({"search": frame("search", [])})["tried"] == []


def test_preparations_are_shown_where_several_were_tried() -> None:
    assert preparations({"preparations": frame("preparations", [TRY])}) == []
    other = {**TRY, "number": 1, "order": "bgr", "top1": 0.1, "chosen": False}
    (shown,) = preparations({"preparations": frame("preparations", [TRY, other])})
    assert shown is not None
    texts = [[cell.text for cell in cells] for _, _, cells in shown.rows]
    assert texts[0][3:5] == ["0.5, 0.5, 0.5", "0.25"] and [row[-1] for row in texts] == ["yes", "no"]
