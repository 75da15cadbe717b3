"""Starts a candidate, prints its process id, and waits for its warm-up, in which its parent is killed.

Arguments: the candidate's specification and its effort, both as JSON, and its log file.
"""

import json
import sys
from pathlib import Path

from tasks.candidates.process import Effort, Spec, Worker

candidate = Worker(Spec(**json.loads(sys.argv[1])), Path(sys.argv[3]))
candidate.receive()
print(candidate.pid, flush=True)
candidate.warm_up("latency", 1, Effort(**json.loads(sys.argv[2])), ())
