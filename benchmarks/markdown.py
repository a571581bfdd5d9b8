"""Pieces of a Markdown page."""


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Render a Markdown table, first column left-aligned."""
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
