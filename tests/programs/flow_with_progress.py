"""A flow of one stage that says once how far it is: the argument is the folder for artifacts."""

import logging
import sys

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.caching.work import Work
from tasks.records import Context, Data, Output


@stage(lambda inputs: "prepare")
def small(work: Work, settings: Data) -> Output:
    work.progress(13, 14, "epoch 13/14")
    return Output(tables={"trials": work.rows("trials", [])})


@flow
def one() -> None:
    call(small, Context(out=sys.argv[1], run="run"), settings=Data())


if __name__ == "__main__":
    logging.getLogger("burnish").setLevel(logging.INFO)
    one()
