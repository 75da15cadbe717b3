"""Deploys all studies twice. Each time it prints whether a deployment's schedule is active, and switches it on.

Arguments: the artifacts folder, and the deployment's name, such as `burnish/quickstart-nightly`.
"""

import sys
from pathlib import Path

from prefect.client.orchestration import get_client

from flows.commands.ui import _deploy, _pool


def main(out: Path, deployment: str) -> None:
    with get_client(sync_client=True) as client:
        for _ in range(2):
            _pool(client)
            _deploy(client, out)
            nightly = client.read_deployment_by_name(deployment)
            (schedule,) = nightly.schedules
            print(schedule.active, schedule.schedule.cron)
            client.update_deployment_schedule(nightly.id, schedule.id, active=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
