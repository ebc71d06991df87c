"""Admission of HTTP requests: places within the concurrency limit, and the deadline."""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.transports.pipeline import Pipeline


class Admission:
    """Middleware that holds a place for each request and ends requests that take too long."""

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises Overloaded, DeadlineExceeded."""
        if scope["operation"].is_limited:
            with self._pipeline.place(), self._pipeline.deadline:
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
