"""What a file says, made fit for one line of an error: short, without control characters, never walked."""

__all__ = ["echo"]

LIMIT = 300


def echo(value: object, limit: int = LIMIT) -> str:
    r"""Return text from a file escaped and cut; of anything else that could be large, the type alone.

    Args:
        value: Any object; its own ``__repr__`` is called for small numbers only.
        limit: Most characters of the result.

    Returns:
        One printable line.

    Example:
        >>> echo("a\nb"), echo([[1]]), echo("x" * 1000, limit=4)
        ('a\\nb', 'a list', 'xxx…')
    """
    if isinstance(value, BaseException):
        # A KeyError shows its argument by `repr`, which takes for ever on a list that holds the same list twice.
        return ", ".join(echo(arg, limit) for arg in value.args)[:limit] or type(value).__name__
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a huge integer"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if not isinstance(value, str | bytes):
        return f"a {type(value).__name__}"
    text = repr(value[: limit + 1])
    text = text[1:-1] if isinstance(value, str) else text
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
