import os
import sys
from pathlib import Path

# ONNX Runtime reads it when it is first imported, in whichever process: it then writes no identifier of this machine to
# its home, sends nothing, and does not complain in the terminal of a home that cannot be written.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if sys.argv[:1] == ["-m"]:
    from tasks.machine.entry import refuse_no_program

    refuse_no_program(__name__, Path(__file__).parent)
