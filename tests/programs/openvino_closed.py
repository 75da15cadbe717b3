"""Open a model twice in OpenVINO, close the first before the second, and then handle a signal."""

import faulthandler
import os
import signal
import sys
from pathlib import Path

from tasks.runtimes import openvino

# Python handles signals on this thread's alternate stack, where it has one.
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", flush=True))
openvino.load_library("cpu")
first, second = (openvino.open(Path(sys.argv[1]), "cpu", 1, 1) for _ in range(2))
first.close()
del first
second.close()
del second
os.kill(os.getpid(), signal.SIGUSR1)
