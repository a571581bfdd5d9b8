"""A file comes over https whole or not at all; none of these tests asks a network."""

import contextlib
import hashlib
import io
import itertools
import socket
import urllib.error
import urllib.request
from email.message import Message
from http.client import IncompleteRead

import pytest

from hocp_mm.errors import CheckpointError, DataError, MissingDataError
from hocp_mm.system import fetching
from hocp_mm.system.fetching import fetch_file
from hocp_mm.system.refusals import refusal

ADDRESS, BODY = "https://example.org/a.pt", b"weights" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


def opener(body=BODY, error=None, late=None, left=0):
    class Stream(io.BytesIO):
        length = left

        def read1(self, size=-1, /):
            piece = super().read1(min(size, 999))
            if late is not None and not piece:
                raise late
            return piece

    def open_(address):
        assert address == ADDRESS
        if error is not None:
            raise error
        return Stream(body)

    return open_


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_whole_file_takes_its_place(tmp_path, sha256):
    seen = []
    file = tmp_path / "new" / "a.pt"
    options = {"most_bytes": len(BODY), "sha256": sha256, "opener": opener()}
    assert fetch_file(ADDRESS, file, check=lambda draft: seen.append(draft.read_bytes()), **options) == DIGEST
    assert file.read_bytes() == BODY
    assert seen == [BODY]
    assert list(file.parent.iterdir()) == [file]


def refuse(draft):
    try:
        raise DataError(f"{draft}: a deep reason")
    except DataError as error:
        raise CheckpointError(f"{draft}: not the one") from error


FAILURES = {
    "no network": ({"opener": opener(error=urllib.error.URLError("no route"))}, MissingDataError, "no route"),
    "no such file": (
        {"opener": opener(error=urllib.error.HTTPError(ADDRESS, 404, "Not Found", Message(), None))},
        MissingDataError,
        "Not Found",
    ),
    "it ends early": ({"opener": opener(late=IncompleteRead(b"", 9))}, MissingDataError, "IncompleteRead"),
    "it stops": ({"opener": opener(late=TimeoutError("timed out"))}, MissingDataError, "timed out"),
    "it ends early, and says nothing": ({"opener": opener(left=9)}, MissingDataError, "it ends 9 bytes early"),
    "it drips": ({"clock": itertools.count(step=600).__next__}, MissingDataError, "not whole after 3600 seconds"),
    "a name that is none": (
        {"opener": opener(error=UnicodeError("label empty or too long"))},
        MissingDataError,
        "label empty or too long",
    ),
    "too large": ({"most_bytes": len(BODY) - 1}, DataError, "at most 6999 bytes"),
    "another checksum": ({"sha256": "0" * 64}, DataError, f"must have SHA-256 0+, got {DIGEST}"),
    "not what was wanted": ({"check": refuse}, CheckpointError, f"^{ADDRESS}: not the one"),
}


@pytest.mark.parametrize(("options", "kind", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_what_is_there_stays_where_anything_fails(tmp_path, options, kind, message):
    file = tmp_path / "a.pt"
    file.write_bytes(b"old")
    with pytest.raises(kind, match=message) as caught:
        fetch_file(ADDRESS, file, **{"most_bytes": len(BODY), "opener": opener(), **options})
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    assert refusal(caught.value) == str(caught.value)
    assert ".part" not in str(caught.value)
    if kind is MissingDataError:
        assert str(caught.value).startswith(f"{ADDRESS}: cannot be fetched (")
        assert str(caught.value).endswith(f"put it at {file}.")


@pytest.mark.parametrize("address", ["http://example.org/a", "file:///etc/hostname", "ftp://example.org/a", "a.pt"])
def test_nothing_but_https_is_opened(tmp_path, address):
    with pytest.raises(DataError, match="must be one of https"):
        fetch_file(address, tmp_path / "a", most_bytes=9, opener=lambda address: pytest.fail("opened"))
    request = urllib.request.Request("https://example.org/b")
    handler = fetching._HttpsOnly()
    with pytest.raises(DataError, match="must be one of https"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), address)
    assert handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), ADDRESS).full_url == ADDRESS


ODD_ADDRESSES = [
    "https://[bad/x", "https://[::1", "https://" + "a" * 70 + ".com/x", "https://xn--\u00fc.com/", "https://a..b/",
    "https://localhost:99999/x", "https://localhost:abc/x", "https://lo%00cal/x", "https://a b/", "https://\udcff/",
    "https://", "https:///x", "https://localhost:-1/", "https://user:[@localhost/",
]  # fmt: skip


@pytest.mark.parametrize("address", ODD_ADDRESSES, ids=ascii)
@pytest.mark.parametrize("redirected", [False, True], ids=["asked for", "redirected"])
def test_an_odd_address_is_one_line(tmp_path, address, redirected, monkeypatch):
    """Whether it is asked for or an answer leads to it; nobody is asked."""
    monkeypatch.setattr(socket, "getaddrinfo", failing_lookup)

    def opener(asked):
        if not redirected or asked != ADDRESS:
            return fetching.https_opener(asked)
        request = fetching._HttpsOnly().redirect_request(
            urllib.request.Request(ADDRESS), io.BytesIO(), 302, "Found", Message(), address
        )
        assert request is not None
        return fetching.https_opener(request.full_url)

    with pytest.raises((DataError, MissingDataError)) as caught:
        fetch_file(ADDRESS if redirected else address, tmp_path / "a", most_bytes=9, opener=opener)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def failing_lookup(host, port, *_, **__):
    if isinstance(host, str):
        host.encode("idna")  # as the real one does
    raise socket.gaierror(-2, "Name or service not known")


def test_the_opener_knows_no_other_scheme(monkeypatch):
    """What `urlopen` would open besides: files, data, FTP, plain http."""
    built = []
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", lambda self, *args, **kwargs: built.append(self))
    fetching.https_opener(ADDRESS)
    (director,) = built
    schemes = {scheme for scheme in director.handle_open if scheme not in ("unknown",)}
    proxies = urllib.request.getproxies()
    assert schemes - proxies.keys() == {"https"} - proxies.keys()
    with contextlib.suppress(KeyError):
        assert not director.handle_open["file"]
