"""Tell runs started by a command from runs started by Prefect, and word for each what a person can do next."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.records import Result

AGAIN = "run the deployment again with the same parameters"
# The advice of other modules as they word it for the command line.
CONFIRM = re.compile(r"run the same command with --again (\w+)")
CHANGED = re.compile(r"run the same command with --set (\S+?)=(\S+?)(?=[ .]( |$)| |$)")


def of_deployment(text: str) -> str:
    """Return a text whose advice fits a run that was started from Prefect's form or a schedule, not by a command."""
    text = CONFIRM.sub(rf'{AGAIN} and again = ["\1"]', text)
    text = CHANGED.sub(rf"{AGAIN} but \1 = \2", text)
    return text.replace("the same command", "the deployment, run again with the same parameters,")


def as_started(result: Result) -> Result:
    """Return the result with advice that fits how the current flow run was started."""
    if not is_deployed():
        return result
    sentences = tuple(of_deployment(sentence) for sentence in result.sentences)
    return result.model_copy(update={"reason": of_deployment(result.reason), "sentences": sentences})


def is_deployed() -> bool:
    """Return whether the current flow run was started from a deployment."""
    from prefect.context import FlowRunContext

    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
