"""Prefect's concurrency limits, by which flow runs of one server measure on a device one after the other."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import ExitStack, contextmanager, suppress
from threading import Timer
from typing import TYPE_CHECKING

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, PrefectException

if TYPE_CHECKING:
    from collections.abc import Iterator


# the least that Prefect takes: so long a run waits for one that was killed while it measured
LEASE_SECONDS = 60.0


def _limits(devices: tuple[str, ...]) -> list[str]:
    """Names of Prefect's global concurrency limits for this machine's devices, of one slot each, made where missing.

    None with a temporary server. A dead holder's slot would stay held: leases are in that server's memory, slots in the
    database that the next one opens. It has one flow run, which `locks.locked` keeps apart from others.
    """
    # set by who started it
    if os.environ.get("BURNISH_TEMPORARY_SERVER"):
        return []
    with get_client(sync_client=True) as client:
        if client.server_type == ServerType.EPHEMERAL:
            return []
        names = [f"burnish {platform.node()} {device}" for device in sorted(devices)]
        for name in names:
            # another flow run made it at the same moment
            with suppress(ObjectAlreadyExists):
                client.upsert_global_concurrency_limit_by_name(name, 1)
    return names


@contextmanager
def alone_on(devices: tuple[str, ...], log: logging.Logger) -> Iterator[None]:
    """Hold this machine's devices: no other flow run of the same server measures on them.

    The server lets go of a dead holder's slot when its lease is not renewed, unless the server itself was started anew.
    Where it is away, `locks.locked` alone keeps other measurements of this machine off.
    """
    held = ExitStack()
    with without_server(log, "other flow runs are not kept from measuring"):
        _hold(held, devices, log)
    try:
        yield
    finally:
        with without_server(log, "it was not told that the measurements have ended"):
            held.close()


@contextmanager
def without_server(log: logging.Logger, left_out: str) -> Iterator[None]:
    """Go on where Prefect's server is away, and say what is left out for it."""
    try:
        yield
    except (PrefectException, httpx.HTTPError, AssertionError) as error:
        # the last: Prefect's client, out of retries
        log.warning("Prefect's server is away (%s): %s", type(error).__name__, left_out)


def _hold(held: ExitStack, devices: tuple[str, ...], log: logging.Logger) -> None:
    """Take the slots of the devices, and have `held` give them back."""
    names = _limits(devices) if devices else []
    if not names:
        return
    freed = " && ".join(f"prefect gcl update '{name}' --active-slots 0" for name in names)
    # Not by concurrency's own timeout: Prefect logs it as an error.
    told = Timer(5, log.info, ("waiting for another flow run's measurements; if there is none: %s", freed))
    told.daemon = True
    told.start()
    try:
        # A lease that is not renewed, since the server is away, must not end the measurement.
        held.enter_context(
            concurrency(names, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False)
        )
    except ConcurrencySlotAcquisitionError as error:
        if isinstance(error.__cause__, (httpx.TransportError, AssertionError)):
            # the server is away, which Prefect wraps
            raise error.__cause__ from None
        raise
    finally:
        told.cancel()
