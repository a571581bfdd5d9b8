"""Who is who: the names of people in different files."""

import unicodedata


def same_actor(actor: str) -> str:
    """Return a form of a name in which spelling variants of one actor are equal: case, spaces, composed letters.

    Example:
        >>> same_actor(" Tom  HANKS") == same_actor("tom hanks")
        True
    """
    return " ".join(unicodedata.normalize("NFKC", actor).casefold().split())
