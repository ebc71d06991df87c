"""The floor of HTTP: empty routes with fixed responses, on Starlette and uvicorn.

`python -m bench.rivals.empty_http --answers FILE` serves the paths of an Interaction and of a
Session's Interactions. The response is the bytes that FILE has for the path with its query.
"""

import argparse
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.rivals.answers import DEFAULT, read_answers
from bench.rivals.serving import serve_http

_LIST_PATH = "/v1/Services/{service_sid}/Sessions/{session_sid}/Interactions"


def _app(answers: dict[bytes, bytes]) -> Starlette:
    default = answers.get(DEFAULT)

    async def answer(request: Request) -> Response:
        """Return the response for this path and query."""
        path, query = request.scope["raw_path"], request.scope["query_string"]
        found = answers.get(b"%b?%b" % (path, query) if query else path, default)
        if found is None:
            return Response(status_code=404)
        return Response(found, media_type="application/json")

    return Starlette(
        routes=[
            Route(_LIST_PATH, answer, methods=["GET"]),
            Route(f"{_LIST_PATH}/{{sid}}", answer, methods=["GET"]),
        ]
    )


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, required=True, help="see bench.rivals.answers")
    serve_http(_app(read_answers(parser.parse_args().answers)))


if __name__ == "__main__":
    main()
