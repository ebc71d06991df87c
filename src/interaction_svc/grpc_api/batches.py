"""How many Interactions a streamed request holds, told before it is parsed.

Two bytes of a request can be an empty message, which takes a hundred and forty in memory: 4 MiB of
them would be 300 MiB, and a second in which nothing else is done.
"""

from interaction_svc.errors import InvalidField, MalformedRequest
from interaction_svc.interactions import MAX_BATCH
from interaction_svc.v1.ingest_service_pb2 import RecordInteractionsRequest

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_INTERACTIONS_TAG = (RecordInteractionsRequest.INTERACTIONS_FIELD_NUMBER << 3) | _LENGTH_DELIMITED
_MAX_FIELDS = 2 * MAX_BATCH
"""More fields than there are Interactions are of a later version of the API, or garbage."""
_MAX_VARINT_BYTES = 10


def check_batch(request: bytes) -> None:
    """Raise InvalidField if a RecordInteractionsRequest holds more than MAX_BATCH Interactions.

    Raises MalformedRequest for bytes that are far from such a message. Otherwise whether they are
    one is found out by parsing them.
    """
    position = fields = interactions = 0
    while position < len(request):
        tag, position = _varint(request, position)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, position = _varint(request, position)
            position += size
        elif kind == _VARINT:
            _, position = _varint(request, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:  # a group, which protobuf has given up
            raise _malformed()
        fields += 1
        interactions += tag == _INTERACTIONS_TAG
        if interactions > MAX_BATCH:
            raise InvalidField("interactions", f"must be at most {MAX_BATCH:,} in one request")
        if fields > _MAX_FIELDS:
            raise _malformed()


def _varint(request: bytes, position: int) -> tuple[int, int]:
    """Give the number that begins there, and where what follows it begins."""
    number = 0
    for place, byte in enumerate(request[position : position + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, position + place + 1
    raise _malformed()


def _malformed() -> MalformedRequest:
    name = RecordInteractionsRequest.DESCRIPTOR.full_name
    return MalformedRequest(f"The request is not a valid {name}")
