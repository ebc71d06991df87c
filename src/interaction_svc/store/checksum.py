"""The checksum of a frame, which detects damaged rows."""

from zlib import crc32

from interaction_svc.store.errors import DamagedRowError

_SIGN = 0x8000_0000


def checksum_of(frame: bytes) -> int:
    """Return the CRC-32 of a frame as a signed 32-bit integer."""
    return (crc32(frame) ^ _SIGN) - _SIGN


def check_frame(frame: bytes, checksum: int, name: str = "a row") -> None:
    """Raise DamagedRowError unless the frame has this checksum. The error names the row."""
    if checksum_of(frame) != checksum:
        raise damaged_row(name)


def damaged_row(name: str) -> DamagedRowError:
    """Return the error for a damaged row."""
    return DamagedRowError(f"{name} is damaged; interaction-svc migrate --check lists all")
