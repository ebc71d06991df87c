"""The fixed responses of the empty rivals, by the bytes of the request.

They are passed in a file, so that a benchmark can copy them from the real service.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

DEFAULT = b""
"""The key of the response to all other requests."""


def write_answers(path: Path, answers: Mapping[bytes, bytes]) -> None:
    """Write the responses to requests.

    For gRPC a request and its response are the bytes of messages, and all methods share one
    mapping. For HTTP a request is the bytes of the path with its query, and a response is a body.
    """
    pairs = [[b64encode(text).decode() for text in pair] for pair in answers.items()]
    path.write_text(json.dumps(pairs))


def read_answers(path: Path) -> dict[bytes, bytes]:
    """Return the responses in a file of write_answers."""
    return {
        b64decode(request): b64decode(answer) for request, answer in json.loads(path.read_text())
    }
