"""How a run was started: from a terminal, where the same command goes on, or by Prefect, where there is no command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.records import Result

AGAIN = "run the deployment again with the same parameters"
CONFIRM = re.compile(r"run the same command with --again (\w+)")
CHANGED = re.compile(r"run the same command with --set (\S+?)=(\S+?)(?=[ .]( |$)| |$)")


def of_deployment(text: str) -> str:
    """What a person is told to do, for a run that was started from Prefect's form or a schedule."""
    text = CONFIRM.sub(rf'{AGAIN} and again = ["\1"]', text)
    text = CHANGED.sub(rf"{AGAIN} but \1 = \2", text)
    return text.replace("the same command", "the deployment, run again with the same parameters,")


def as_started(result: Result) -> Result:
    """The result of a run with what a person can do about it, as the current flow run was started."""
    if not is_deployed():
        return result
    changed = {"reason": of_deployment(result.reason), "sentences": tuple(map(of_deployment, result.sentences))}
    return result.model_copy(update=changed)


def is_deployed() -> bool:
    """Whether the current flow run is one of a deployment."""
    from prefect.context import FlowRunContext

    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
