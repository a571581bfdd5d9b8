"""A file from an address: over https alone, whole or not at all, no larger than it may be."""

import hashlib
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage
from io import BufferedIOBase
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.system.files import replacing

__all__ = ["Opener", "fetch_file", "https_opener"]

_PIECE = 1 << 20
_SECONDS, _MOST_SECONDS = 30.0, 3600.0  # without a byte, and for a whole file, of which a byte may come now and then

Opener = Callable[[str], BufferedIOBase]
"""From an address to a stream that is closed when it is left."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirection that leaves https, as Python's own would."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Look at where it leads to."""
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def https_opener(address: str) -> BufferedIOBase:
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
    return cast("BufferedIOBase", opener.open(address, timeout=_SECONDS))


def fetch_file(
    address: str,
    file: Path,
    *,
    most_bytes: int,
    sha256: str | None = None,
    check: Callable[[Path], object] = lambda draft: None,
    opener: Opener = https_opener,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Fetch a file; what is there stays until the new one is whole.

    Args:
        address: Where it is; https.
        file: Where it is to be.
        most_bytes: How large it may be.
        sha256: What it must have; None takes what comes.
        check: Called with the whole draft; what it raises ends all, and then names the address, not the draft.
        opener: What opens the address.
        clock: Seconds that have gone by.

    Returns:
        Its SHA-256, in hexadecimal.

    Raises:
        DataError: If the address is not https, or what comes is too large or has another SHA-256.
        MissingDataError: If it cannot be reached, ends early or takes more than an hour.
        HOCPError: What ``check`` raises.
        OutputError: If the file cannot be written.
    """
    _check_address(address)
    digest, size = hashlib.sha256(), 0
    with replacing(file) as draft:
        with draft.open("wb") as out:
            for piece in _pieces(address, file, opener, clock):
                size += len(piece)
                if size > most_bytes:
                    raise DataError(f"{address}: the file must have at most {most_bytes} bytes, more came.")
                digest.update(piece)
                out.write(piece)
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise DataError(f"{address}: the file must have SHA-256 {sha256}, got {found}; nothing was kept.")
        try:
            check(draft)
        except HOCPError as error:
            raise type(error)(str(error).replace(str(draft), address)) from None  # the innermost one would be told
    return found


def _check_address(address: str) -> None:
    try:
        scheme = urlsplit(address).scheme
    except ValueError as error:  # an odd [host]
        raise DataError(f"{address:.200}: must be an address ({error}).") from error
    if scheme != "https":
        raise DataError(f"{address:.200}: an address must be one of https.")


def _pieces(address: str, file: Path, opener: Opener, clock: Callable[[], float]) -> Iterator[bytes]:
    try:
        end = clock() + _MOST_SECONDS
        with opener(address) as stream:
            while piece := stream.read1(_PIECE):  # what is there: read would wait for as much, byte by byte
                yield piece
                if clock() > end:
                    raise TimeoutError(f"not whole after {_MOST_SECONDS:.0f} seconds")
            if left := getattr(stream, "length", None):  # of what was promised; http.client says nothing of it
                raise OSError(f"it ends {left} bytes early")
    except HOCPError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # those of who writes the pieces are not thrown in here
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:100]
        raise MissingDataError(
            f"{address}: cannot be fetched ({reason}); get it elsewhere and put it at {file}."
        ) from error
