"""Admission: holds a place for each HTTP request, and ends requests that take too long."""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.transports.operations import operation_of_path
from interaction_svc.transports.pipeline import Pipeline


class Admission:
    """Middleware for requests below API_PREFIX; other requests pass."""

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises Overloaded, DeadlineExceeded."""
        if not operation_of_path(scope["path"]).is_limited:
            await self._app(scope, receive, send)
            return
        with self._pipeline.place(), self._pipeline.deadline:
            await self._app(scope, receive, send)
