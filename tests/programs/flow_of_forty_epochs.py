"""A flow of one stage that reports forty epochs of 0.3 s each. After twenty it prints "now" and waits for a line.

Argument: the artifacts folder. At the end it prints how many seconds the stage took.
"""

import logging
import sys
import time

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.caching.work import Work
from tasks.records import Context, Output


def train(work: Work) -> Output:
    begin = time.monotonic()
    for epoch in range(40):
        if epoch == 20:
            print("now", flush=True)
            sys.stdin.readline()
        time.sleep(0.3)
        work.progress(epoch + 1, 40, f"epoch {epoch + 1}")
    print("seconds", time.monotonic() - begin, flush=True)
    return Output(tables={})


train_stage = stage(lambda inputs: "train/x")(train)


@flow
def report_forty_epochs() -> None:
    call(train_stage, Context(out=sys.argv[1], run="x-1-1"))


if __name__ == "__main__":
    logging.getLogger("burnish").setLevel(logging.INFO)
    report_forty_epochs()
