import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:
    from tasks.machine.entry import refuse_no_program

    refuse_no_program(__name__, Path(__file__).parent)
