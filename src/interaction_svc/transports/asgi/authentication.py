"""Authentication and authorization of HTTP requests, before their parameters are parsed."""

from starlette.types import ASGIApp, Receive, Scope, Send

from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.client_gone import unless_gone
from interaction_svc.transports.operations import Operation
from interaction_svc.transports.pipeline import Pipeline


class Authentication:
    """Middleware that identifies callers, checks permissions, and counts requests per account.

    HTTP requests need credentials even if the store has no key, as in the vendor's API. Unknown
    paths of the API need them too, so a caller without credentials does not learn which paths
    exist.
    """

    def __init__(self, app: ASGIApp, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request.

        Raises Unauthenticated, RateLimited, PermissionDenied, Overloaded, Unavailable,
        ClientGoneError.
        """
        operation: Operation = scope["operation"]
        if not operation.needs_credentials:
            await self._app(scope, receive, send)
            return
        request = current_request()
        # Without the header the credentials are empty, which is malformed. None would be accepted
        # while the store has no key.
        credentials = request.authorization or ""
        if not self._pipeline.authenticate_cached(request, credentials):
            await self._pipeline.authenticate(request, credentials)
        share = self._pipeline.authorize(operation, request.principal)
        if share is None:
            share = await unless_gone(scope, self._pipeline.wait_for_share(request))
        with share:
            await self._app(scope, receive, send)
