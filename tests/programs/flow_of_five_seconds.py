"""A flow of one stage that takes five seconds, for a test that starts two runs of it at the same time.

The test's command imports this module. Its arguments are the artifacts folder and the name of the run. Each computation
adds a line to the file `computed`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.records import Context, Output

if TYPE_CHECKING:
    from tasks.caching.work import Work


def train(work: Work) -> Output:
    with (Path(sys.argv[1]) / "computed").open("a") as file:
        file.write("once\n")
    time.sleep(5)
    return Output(tables={})


train_stage = stage(lambda inputs: "train/slow")(train)


@flow
def train_once(run: str) -> None:
    assert call(train_stage, Context(out=sys.argv[1], run=run)) == Output(tables={})
