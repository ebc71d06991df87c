"""The checksum of a frame, which tells a damaged row from a good one."""

from zlib import crc32

from interaction_svc.store.errors import DamagedRowError

_SIGN = 0x8000_0000


def checksum_of(frame: bytes) -> int:
    """Return the CRC-32 of a frame, as a signed integer of 32 bits."""
    return (crc32(frame) ^ _SIGN) - _SIGN


def check_frame(frame: bytes, checksum: int, name: str = "a row") -> None:
    """Raise DamagedRowError unless the frame has this checksum; `name` says which row it is."""
    if checksum_of(frame) != checksum:
        raise DamagedRowError(f"{name} is damaged; interaction-svc migrate --check lists all")
