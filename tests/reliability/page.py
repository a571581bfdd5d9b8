"""Rows of docs/reliability.md, each written by the command that it names."""

import re

from tests.material.processes import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def record(row: str, what: str, command: str, tried: int, lost: int, note: str = "") -> None:
    """Write one row of the table, in the place of the one of the same name.

    Args:
        row: Name of the row, which stands in a comment in it.
        what: What was tried.
        command: How to try it again.
        tried: How often.
        lost: How often something was lost, executed, deleted, other than it should be, or hung.
        note: Anything else.
    """
    text = PAGE.read_text(encoding="utf-8")
    line = f"| {what}<!-- {row} --> | {tried:,} | {tried - lost:,} | {lost} | {note} | `{command}` |\n"
    pattern = re.compile(rf"^\|[^\n]*<!-- {re.escape(row)} -->[^\n]*\n", re.MULTILINE)
    if pattern.search(text):
        text = pattern.sub(lambda _: line, text)
    else:
        text = text.replace("<!-- rows end -->", f"{line}<!-- rows end -->")
    PAGE.write_text(text, encoding="utf-8")
