"""The application that burnish's own server runs: Prefect's, which answers a run's first requests sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.machine.garbage import search_all_seldom

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.routing import BaseRoute

FIRST = ("/flows", "/flow_runs", "/task_runs", "/logs", "/artifacts", "/events", "/admin", "/csrf-token")
"""Prefixes of the routes that a run sends requests to."""


def create_app() -> FastAPI:
    """Return Prefect's application. uvicorn calls this function by its name."""
    # Importing Prefect's server makes hundreds of thousands of objects that stay.
    search_all_seldom()
    from prefect.server.api.server import create_app as create_prefect

    app = create_prefect()
    # FastAPI prepares the routes of a group when a request is first compared with them. Groups that no request of a run
    # is for would take as much time as those that are, where they come first. No two groups have the same prefix, so
    # their order decides nothing else.
    app.api_app.router.routes.sort(key=_is_unused)  # type: ignore[attr-defined]
    return app


def _is_unused(route: BaseRoute) -> bool:
    """Return whether a route is a group of routes that runs do not use."""
    group = getattr(route, "original_router", None)
    return group is not None and group.prefix not in FIRST
