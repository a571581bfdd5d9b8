"""A file from an address: over https alone, whole or not at all, no larger than it may be."""

import hashlib
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.files import replacing

__all__ = ["Opener", "fetch_file", "https_opener"]

_PIECE = 1 << 20
_SECONDS = 30.0  # without a byte

Opener = Callable[[str], IO[bytes]]
"""From an address to a stream that is closed when it is left."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves https, as Python's own would."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Look at where it leads to."""
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def https_opener(address: str) -> IO[bytes]:
    """Open an address, and what it redirects to, over https."""
    # Not build_opener, which adds handlers of files, FTP and plain http.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpsOnly(),
    ):
        opener.add_handler(handler)
    return cast("IO[bytes]", opener.open(address, timeout=_SECONDS))


def fetch_file(
    address: str,
    file: Path,
    *,
    most_bytes: int,
    sha256: str | None = None,
    check: Callable[[Path], object] = lambda draft: None,
    opener: Opener = https_opener,
) -> str:
    """Fetch a file; what is there stays until the new one is whole.

    Args:
        address: Where it is; https.
        file: Where it is to be.
        most_bytes: How large it may be.
        sha256: What it must have; None takes what comes.
        check: Called with the whole draft; what it raises ends all.
        opener: What opens the address.

    Returns:
        Its SHA-256, in hexadecimal.

    Raises:
        DataError: If the address is not https, or what comes is too large or has another SHA-256.
        MissingDataError: If it cannot be reached.
        OutputError: If the file cannot be written.
    """
    _check_address(address)
    digest, size = hashlib.sha256(), 0
    with replacing(file) as draft:
        with draft.open("wb") as out:
            for piece in _pieces(address, file, opener):
                size += len(piece)
                if size > most_bytes:
                    raise DataError(f"{address}: the file must have at most {most_bytes} bytes, more came.")
                digest.update(piece)
                out.write(piece)
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise DataError(f"{address}: the file must have SHA-256 {sha256}, got {found}; nothing was kept.")
        check(draft)
    return found


def _check_address(address: str) -> None:
    if urlsplit(address).scheme != "https":
        raise DataError(f"{address:.200}: an address must be one of https.")


def _pieces(address: str, file: Path, opener: Opener) -> Iterator[bytes]:
    try:
        with opener(address) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (OSError, HTTPException) as error:  # those of who writes the pieces are not thrown in here
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:100]
        raise MissingDataError(
            f"{address}: cannot be fetched ({reason}); get it elsewhere and put it at {file}."
        ) from error
