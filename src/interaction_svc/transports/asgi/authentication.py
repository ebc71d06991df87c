"""Authentication: identifies the caller of an HTTP request before it is routed."""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.operations import operation_of_path
from interaction_svc.transports.pipeline import Pipeline


class Authentication:
    """Middleware for requests below API_PREFIX; other requests pass.

    It runs before the router, so a caller without credentials does not learn which paths exist.
    HTTP requests need credentials even where no key exists, as in the vendor's API.
    """

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises Unauthenticated, RateLimited, Unavailable."""
        if operation_of_path(scope["path"]).needs_credentials:
            request = current_request()
            # Without a header the credentials are empty, which are malformed. None would be let in
            # where no key exists.
            await self._pipeline.authenticate(request, request.authorization or "")
        await self._app(scope, receive, send)
