"""Admission of HTTP requests: places within the concurrency limit, and the deadline."""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.client_gone import unless_gone
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline


class Admission:
    """Middleware that holds a place for each request and ends requests that take too long."""

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises Overloaded, DeadlineExceeded, ClientGoneError."""
        operation: Operation = scope["operation"]
        if operation.is_limited:
            pipeline = self._pipeline
            with pipeline.deadline:
                place = pipeline.place()
                if place is None:
                    waiting = pipeline.wait_for_place(operation, current_request().authorization)
                    place = await unless_gone(scope, waiting)
                with place:
                    await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
