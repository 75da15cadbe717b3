"""Runs several studies one after the other, and prints "== NAME CODE" after each.

Arguments: the artifacts folder and, as JSON, the settings of each study by its name. All studies run in one process,
because to import PyTorch and Great Expectations for each study would take half a minute.
"""

import json
import sys

from flows.cli import main

if __name__ == "__main__":
    for name, settings in json.loads(sys.argv[2]).items():
        code = main(["run", name, "--out", sys.argv[1], *(f"--set={setting}" for setting in settings)])
        print(f"== {name} {code}", flush=True)
