"""A flow of one stage that holds the CPU for 3 s, and prints when it began and ended.

Arguments: the name of the run, and the artifacts folder.
"""

import sys
import time

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.caching.work import Work
from tasks.records import Context, Output


def hold(work: Work, name: str) -> Output:
    begin = time.time()
    time.sleep(3)
    print("held", begin, time.time(), flush=True)
    return Output(tables={})


hold_stage = stage(lambda inputs: "hold", devices=lambda inputs: ("cpu",))(hold)


@flow
def measure(name: str) -> None:
    call(hold_stage, Context(out=sys.argv[2], run=name), name=name)


if __name__ == "__main__":
    measure(sys.argv[1])
