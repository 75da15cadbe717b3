"""Quantize a small network with both back ends of NNCF, in a process that may not reach the network.

Usage: python -m tests.programs.quantize_with_nncf FOLDER
"""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx

from tasks.quantizers import nncf_onnx, nncf_openvino
from tests.support.models import network


class Noise:
    """Random images to calibrate with."""

    def __len__(self) -> int:
        return 8

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.random.default_rng(start).random((stop - start, 3, 8, 8), np.float32)


def refuse(*arguments: object) -> NoReturn:
    """End the process: a thread or a caller that catches exceptions would hide them."""
    import os

    print("a connection was tried:", *arguments, file=sys.stderr, flush=True)
    os._exit(3)


def main(folder: Path) -> None:
    """Quantize, and print one word."""
    socket.socket.connect = refuse  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = refuse
    model = network()
    model.graph.input[0].name = "input"
    model.graph.node[0].input[0] = "input"
    onnx.save(model, folder / "fp32.onnx")
    logger_class = logging.getLoggerClass()
    nncf_onnx.quantize("nncf-mixed", folder / "fp32.onnx", folder, Noise())
    nncf_openvino.quantize("nncf-openvino-mixed-sequential", folder / "fp32.onnx", folder, Noise())
    assert logging.getLoggerClass() is logger_class
    assert sys.modules["openvino_telemetry"] is None
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
    print("quantized")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
