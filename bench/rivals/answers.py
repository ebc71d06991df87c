"""The fixed answers of the empty rivals: which bytes follow which request.

They are a file, so that whoever asks the real service can hand its answers over.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

DEFAULT = b""
"""As a request: what answers every request that isn't there."""


def write_answers(path: Path, answers: Mapping[bytes, bytes]) -> None:
    """Write the answers to requests.

    A request is the bytes of a gRPC message, or of an HTTP path with its query; an answer is those
    of a message or of a body. The gRPC methods share one mapping.
    """
    pairs = [[b64encode(text).decode() for text in pair] for pair in answers.items()]
    path.write_text(json.dumps(pairs))


def read_answers(path: Path) -> dict[bytes, bytes]:
    """Read what write_answers wrote."""
    return {
        b64decode(request): b64decode(answer) for request, answer in json.loads(path.read_text())
    }
