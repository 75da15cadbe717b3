"""Starts a candidate's worker, prints the worker's process id, and waits for its warm-up.

The test kills this process during the warm-up. Arguments: the candidate's specification and the effort of its
measurement, both as JSON, and the worker's log file.
"""

import json
import sys
from pathlib import Path

from tasks.candidates.process import Effort, Spec, Worker

worker = Worker(Spec(**json.loads(sys.argv[1])), Path(sys.argv[3]))
worker.receive()
print(worker.pid, flush=True)
worker.warm_up("latency", 1, Effort(**json.loads(sys.argv[2])), ())
