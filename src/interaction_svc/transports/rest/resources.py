"""The resources of the REST API: the Interactions of a Session, and one Interaction."""

from urllib.parse import parse_qsl

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from interaction_svc.app.interactions import Interactions, Page
from interaction_svc.codec import twilio_json
from interaction_svc.codec.twilio_query import parameter_of, read_account, read_parameters
from interaction_svc.domain.errors import (
    InteractionNotFound,
    InvalidConsistencyToken,
    InvalidField,
    PageTokenMismatch,
)
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.telemetry.request_context import current_request
from interaction_svc.transports.asgi.json_cache import JsonCache
from interaction_svc.transports.rest import pages
from interaction_svc.transports.rest.responses import JsonResponses


class InteractionList:
    """The Interactions of a Session. The method is an ASGI application."""

    def __init__(
        self,
        interactions: Interactions,
        cache: JsonCache,
        responses: JsonResponses,
        base_url: str,
    ) -> None:
        self._interactions = interactions
        self._cache = cache
        self._responses = responses
        self._base_url = base_url

    async def get(self, scope: Scope, _: Receive, send: Send) -> None:
        """Send a page."""
        service_sid, session_sid = scope["path_params"].values()
        context = current_request()
        request, number, carried = read_parameters(service_sid, session_sid, _query(scope))
        token, size = request.page_token, request.page_size

        async def read(token: str, size: int) -> Page:
            request.page_token, request.page_size = token, size
            return await self._interactions.page(
                context.principal,
                request,
                consistency=context.consistency,
                max_bytes=pages.READ_BYTES,
            )

        def end(first: Page, last: Page) -> bytes:
            meta = twilio_json.page_meta(
                twilio_json.list_url(self._base_url, service_sid, session_sid),
                page=number,
                page_size=first_part.page_size,
                page_token=token,
                next_page_token=last.next_page_token,
                previous_page_token=first.previous_page_token,
                carried=carried,
            )
            return b'],"meta":%b}' % orjson.dumps(meta)

        try:
            first_part = await pages.read_first(read, token, size)
        except InvalidField as error:
            # A Session with a malformed SID does not exist.
            if error.field in scope["path_params"] and not isinstance(error, PageTokenMismatch):
                raise InteractionNotFound(scope["path"]) from error
            raise InvalidField(parameter_of(error.field), error.problem) from error
        page = first_part.page
        if not first_part.following:
            rows = b",".join(self._cache.render_page(page.frames))
            body = b"".join([pages.LIST_BEGIN, rows, end(page, page)])
            await self._responses.send(scope, send, body)
            return
        stream = self._responses.stream(scope, send)
        await stream.start()
        if scope["method"] == "HEAD":
            await stream.send(b"", is_last=True)
        else:
            await pages.send(stream, self._cache, read, first_part, end)


class InteractionResource:
    """One Interaction. The methods are ASGI applications."""

    def __init__(
        self, interactions: Interactions, cache: JsonCache, responses: JsonResponses
    ) -> None:
        self._interactions = interactions
        self._cache = cache
        self._responses = responses

    async def get(self, scope: Scope, _: Receive, send: Send) -> None:
        """Send the Interaction."""
        key, account_sid = _arguments(scope)
        request = current_request()
        try:
            encoded = await self._interactions.get(
                request.principal, key, account_sid=account_sid, consistency=request.consistency
            )
        except InvalidConsistencyToken:
            raise
        except InvalidField as error:  # a resource with a malformed SID does not exist
            raise InteractionNotFound(scope["path"]) from error
        await self._responses.send(scope, send, self._cache.render_item(encoded))

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delete the Interaction."""
        key, account_sid = _arguments(scope)
        request = current_request()
        try:
            request.written = await self._interactions.delete(
                request.principal, key, account_sid=account_sid
            )
        except InvalidField as error:
            raise InteractionNotFound(scope["path"]) from error
        await Response(status_code=204)(scope, receive, send)


def _arguments(scope: Scope) -> tuple[InteractionKey, str]:
    """Return the key of an Interaction, and the AccountSid, which is empty if it is not given."""
    account_sid = read_account(_query(scope)) if scope["query_string"] else ""
    return InteractionKey(**scope["path_params"]), account_sid


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
