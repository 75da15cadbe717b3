"""A flow of one stage that reports its progress once. Argument: the artifacts folder."""

import logging
import sys

from prefect import flow

from tasks.caching.stage import call, stage
from tasks.caching.work import Work
from tasks.records import Context, Data, Output


@stage(lambda inputs: "prepare")
def prepare(work: Work, settings: Data) -> Output:
    work.progress(13, 14, "epoch 13/14")
    return Output(tables={"trials": work.rows("trials", [])})


@flow
def prepare_once() -> None:
    call(prepare, Context(out=sys.argv[1], run="run"), settings=Data())


if __name__ == "__main__":
    logging.getLogger("burnish").setLevel(logging.INFO)
    prepare_once()
