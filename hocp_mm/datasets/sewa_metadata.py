"""``metadata.ini`` of a SEWA segment: an index of its folder, with category, conversation, subject and demographics."""

import re
from pathlib import Path
from typing import NamedTuple

from hocp_mm.datasets.sewa_files import SEWAKey
from hocp_mm.datasets.source_files import read_bytes
from hocp_mm.errors import DataError, MissingDataError


class SEWAMetadata(NamedTuple):
    """What ``metadata.ini`` says of a segment.

    Attributes:
        category: Folder category, ``SAH`` and the like; empty if it does not say.
        conversation: Number of the conversation, None if it does not say.
        person: Number of the subject, None if it does not say.
        values: Everything, by lower-case ``(section, name)``; the section is empty above the first one.
    """

    category: str
    conversation: int | None
    person: int | None
    values: dict[tuple[str, str], str]


def read_sewa_metadata(path: str | Path) -> SEWAMetadata:
    """Read the ``metadata.ini`` of a segment.

    Only the line ``Category=…`` is known from a public reader of the real files, so little is asked of the rest:
    lines ``name=value`` (or ``name: value``) with or without ``[sections]``, repeated or not, and comments. Sections
    and names are not told apart by case.

    Args:
        path: The file.

    Returns:
        Category, numbers where they are stated as such, and all values.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no text, or holds no ``name=value`` line.
    """
    raw = read_bytes(path, "metadata file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # demographics may hold names of places; every byte has a meaning there
    values: dict[tuple[str, str], str] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip().lower()
        elif line and line[0] not in "#;" and (match := re.match(r"([^=:]+)[=:](.*)", line)):
            # The first of a repeated name counts, as a later one often is another episode's.
            values.setdefault((section, match.group(1).strip().lower()), match.group(2).strip().strip("\"'"))
    if not values or "\0" in text:
        raise DataError(f"{path}: must hold lines name=value, got {text[:40]!r}.")

    def find(*names: str) -> str:
        return next((value for (_, name), value in values.items() if name in names and value), "")

    conversation, person = (find(name, f"{name} number", f"{name}number") for name in ("conversation", "subject"))
    return SEWAMetadata(find("category"), _to_count(conversation), _to_count(person), values)


def _to_count(text: str) -> int | None:
    """Return the number in ``55``, ``S055`` or ``P109``, None where there is something else."""
    match = re.fullmatch(r"[SP]?0*(\d{1,18})", text, flags=re.IGNORECASE)
    return int(match.group(1)) if match else None


def contradictions(folder: Path, parts: SEWAKey) -> str:
    """Return what ``metadata.ini`` says otherwise than the name of the folder, as far as both can be compared.

    Meant for a warning, not for a fault: which of its numbers are those of the name is not verified on real files.

    Args:
        folder: Folder of a segment; it need not have the file.
        parts: Parts of its name.

    Returns:
        One line, empty if nothing contradicts.
    """
    try:
        metadata = read_sewa_metadata(folder / "metadata.ini")
    except MissingDataError:
        return ""
    except DataError as error:
        return str(error)
    told = []
    if metadata.category and metadata.category.upper() not in (parts.segment, parts.segment[1:]):  # SAH or AH
        told.append(f"category {metadata.category}, named {parts.segment}")
    for what, said, named in (
        ("conversation", metadata.conversation, parts.conversation),
        ("subject", metadata.person, parts.person),
    ):
        if said not in (None, int(named[1:])):
            told.append(f"{what} {said}, named {named}")
    return f"{folder.name} ({'; '.join(told)})" if told else ""
