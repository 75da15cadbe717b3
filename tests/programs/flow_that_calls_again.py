"""A flow that calls one stage four times. The third call asks for another stage to be computed again, the fourth for
this one.

Argument: the artifacts folder.
"""

import sys

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.caching.work import Work
from tasks.records import Context, Output


def train(work: Work) -> Output:
    print("computed", flush=True)
    return Output(tables={})


train_stage = stage(lambda inputs: "train/x")(train)


@flow
def call_four_times() -> None:
    for again in ((), (), ("benchmark",), ("train",)):
        print(again, flush=True)
        call(train_stage, Context(out=sys.argv[1], run="x-1-1", again=again))


if __name__ == "__main__":
    call_four_times()
