"""TLS files for h2corn, which reads them by path."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from interaction_svc.transports.h2corn.config import PemPaths
from interaction_svc.transports.tls import PemFiles


@contextmanager
def readable(pem: PemFiles | None) -> Iterator[PemPaths | None]:
    """Return paths at which the contents can be read within the block.

    The paths of the settings may have other contents already, with a certificate and a key that do
    not match. The files of this function have no name in the file system, and on Linux they are
    not on a disk.
    """
    if pem is None:
        yield None
        return
    with ExitStack() as opened:

        def path_of(content: bytes) -> Path:
            file = opened.enter_context(_nameless_file())
            file.write(content)
            file.flush()
            file.seek(0)
            return Path(f"/dev/fd/{file.fileno()}")

        client_ca = None if pem.client_ca is None else path_of(pem.client_ca)
        yield PemPaths(path_of(pem.certificate), path_of(pem.key), client_ca)


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pem"), "w+b")
    return tempfile.TemporaryFile()
