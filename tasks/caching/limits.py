"""Prefect's concurrency limits, which let only one flow run of a server at a time measure on a device."""

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


# A run waits this long for another that was killed while it measured. Prefect accepts no shorter lease.
LEASE_SECONDS = 60.0


def _limits(devices: tuple[str, ...]) -> list[str]:
    """Return the names of Prefect's global concurrency limits for devices of this machine, one slot each.

    Limits that are missing are made. With a temporary server there are none, because the slot of a run that died would
    stay held: leases are in that server's memory, and slots in the database that the next server opens. Such a server
    has one flow run, which `locks.locked` keeps apart from others.
    """
    # The process that starts a temporary server sets this variable.
    if os.environ.get("BURNISH_TEMPORARY_SERVER"):
        return []
    with get_client(sync_client=True) as client:
        if client.server_type == ServerType.EPHEMERAL:
            return []
        names = [f"burnish {platform.node()} {device}" for device in sorted(devices)]
        for name in names:
            # Another flow run may make the limit at the same moment.
            with suppress(ObjectAlreadyExists):
                client.upsert_global_concurrency_limit_by_name(name, 1)
    return names


@contextmanager
def alone_on(devices: tuple[str, ...], log: logging.Logger) -> Iterator[None]:
    """Hold this machine's devices while the block runs, so that no other flow run of the same server measures on them.

    If this process dies, the server frees its slot when the lease is not renewed, unless the server itself was started
    again in between. Where the server is away, `locks.locked` alone keeps other measurements off this machine.
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
    """Carry on if Prefect's server is away while the block runs, with a warning that ends in the words `left_out`."""
    try:
        yield
    except (PrefectException, httpx.HTTPError, AssertionError) as error:
        # Prefect's client raises an AssertionError when it has used up its retries.
        log.warning("Prefect's server is away (%s): %s", type(error).__name__, left_out)


def _hold(held: ExitStack, devices: tuple[str, ...], log: logging.Logger) -> None:
    """Take the slots of the devices. Closing `held` gives them back."""
    names = _limits(devices) if devices else []
    if not names:
        return
    freed = " && ".join(f"prefect gcl update '{name}' --active-slots 0" for name in names)
    # A timer of ours, because Prefect logs the end of its own timeout as an error.
    notice = Timer(5, log.info, ("waiting for another flow run's measurements; if there is none: %s", freed))
    notice.daemon = True
    notice.start()
    try:
        # A lease that cannot be renewed, because the server is away, must not end the measurement.
        held.enter_context(
            concurrency(names, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False)
        )
    except ConcurrencySlotAcquisitionError as error:
        if isinstance(error.__cause__, (httpx.TransportError, AssertionError)):
            # The server is away, and Prefect has wrapped that error in its own.
            raise error.__cause__ from None
        raise
    finally:
        notice.cancel()
