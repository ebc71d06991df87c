"""The resources of the REST API: the Interactions of a Session, and one Interaction."""

from urllib.parse import parse_qsl

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from interaction_svc.app import consistency
from interaction_svc.app.interactions import Interactions, Page
from interaction_svc.codec import twilio_json
from interaction_svc.codec.twilio_query import parameter_of, read_account, read_parameters
from interaction_svc.domain.errors import InteractionNotFound, InvalidConsistencyToken, InvalidField
from interaction_svc.domain.interactions import InteractionKey
from interaction_svc.domain.sids import Sid
from interaction_svc.telemetry.request_context import RequestContext, current_request
from interaction_svc.transports.operations import DELETE, GET, LIST, Operation
from interaction_svc.transports.pipeline import Pipeline
from interaction_svc.transports.rest import pages
from interaction_svc.transports.rest.json_cache import JsonCache
from interaction_svc.transports.rest.responses import JsonAnswers


class InteractionList:
    """The Interactions of a Session.

    It and InteractionResource are ASGI applications rather than functions of a Request, around
    which Starlette would put 12 microseconds.
    """

    def __init__(
        self,
        interactions: Interactions,
        pipeline: Pipeline,
        renderings: JsonCache,
        answers: JsonAnswers,
        base_url: str,
    ) -> None:
        self._interactions = interactions
        self._pipeline = pipeline
        self._renderings = renderings
        self._answers = answers
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET a page of them."""
        request = current_request()
        enter(LIST, request)
        with self._pipeline.authorize(LIST, request.principal):
            await self._page(scope, send, request)

    async def _page(self, scope: Scope, send: Send, context: RequestContext) -> None:
        principal, seen = context.principal, context.consistency
        service_sid, session_sid = scope["path_params"].values()
        if not (Sid.SERVICE.matches(service_sid) and Sid.SESSION.matches(session_sid)):
            raise InteractionNotFound(scope["path"])
        query = _query(scope)
        request, number, carried = read_parameters(service_sid, session_sid, query)
        token, size = request.page_token, request.page_size

        async def read(token: str, size: int) -> Page:
            request.page_token, request.page_size = token, size
            return await self._interactions.page(
                principal, request, consistency=seen, max_bytes=pages.READ_BYTES
            )

        def end(first: Page, last: Page) -> bytes:
            meta = twilio_json.page_meta(
                twilio_json.list_url(self._base_url, service_sid, session_sid),
                page=number,
                page_size=size,
                page_token=token,
                next_page_token=last.next_page_token,
                previous_page_token=first.previous_page_token,
                carried=carried,
            )
            return b'],"meta":%b}' % orjson.dumps(meta)

        try:
            begun = await pages.begin(read, token, size)
        except InvalidField as error:
            raise InvalidField(parameter_of(error.field), error.problem) from error
        page = begun.first
        if not begun.following:
            rows = b",".join(self._renderings.of(page.frames))
            body = b"".join([pages.LIST_BEGIN, rows, end(page, page)])
            await self._answers.send(scope, send, body)
            return
        stream = self._answers.stream(scope, send)
        await stream.start()
        if scope["method"] == "HEAD":
            await stream.send(b"", is_last=True)
        else:
            await pages.send(stream, self._renderings, read, begun, end)


class InteractionResource:
    """One Interaction."""

    def __init__(
        self,
        interactions: Interactions,
        pipeline: Pipeline,
        renderings: JsonCache,
        answers: JsonAnswers,
    ) -> None:
        self._interactions = interactions
        self._pipeline = pipeline
        self._renderings = renderings
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET or DELETE it."""
        request = current_request()
        operation = DELETE if scope["method"] == "DELETE" else GET
        enter(operation, request)
        with self._pipeline.authorize(operation, request.principal):
            key = InteractionKey(**scope["path_params"])
            account_sid = read_account(_query(scope)) if scope["query_string"] else ""
            try:
                if operation is DELETE:
                    await self._delete(request, key, account_sid)
                    response = Response(status_code=204, headers=_written(request))
                    await response(scope, receive, send)
                    return
                frame = await self._interactions.get(
                    request.principal, key, account_sid=account_sid, consistency=request.consistency
                )
            except InvalidConsistencyToken:
                raise
            except InvalidField as error:  # a malformed SID is a resource that doesn't exist
                raise InteractionNotFound(scope["path"]) from error
            await self._answers.send(scope, send, self._renderings.of_one(frame))

    async def _delete(self, request: RequestContext, key: InteractionKey, account_sid: str) -> None:
        await self._interactions.delete(request.principal, key, account_sid=account_sid)
        request.written = await self._interactions.consistency()


def enter(operation: Operation, request: RequestContext) -> None:
    """Name the operation of a request, now that the router has found it."""
    assert operation.route is not None  # noqa: S101 it is served over HTTP
    request.method, request.is_quiet = operation.route.name, operation.is_quiet


def _written(request: RequestContext) -> dict[str, str] | None:
    """Return the header with the consistency token of what the request wrote."""
    return None if request.written is None else {consistency.KEY: request.written}


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
