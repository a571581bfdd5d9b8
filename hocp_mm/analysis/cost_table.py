"""Lay out the cost of a network: aligned text, Markdown, and a CSV file with the bare numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hocp_mm.functional.cost import Cost
from hocp_mm.layers.complexity import Complexity, LayerComplexity
from hocp_mm.system.files import write_rows

_NAME_WIDTH = 28
_LEGEND = "Activations are those of PyTorch's own operations; the fused CPU kernel writes none of the rank's."
_Columns = dict[str, Callable[[LayerComplexity], str]]


def text_tables(result: Complexity) -> str:
    """Return the table of layers and the table of totals, columns aligned; norms and the rest are one line each.

    Returns:
        Lines of at most 140 characters without a trailing newline; where there are CP layers, the last one tells whose
        activations are counted.
    """
    return "\n\n".join([_align(_layer_cells(result)), _align(_total_cells(result)), *_legend(result)])


def markdown_tables(result: Complexity) -> str:
    """Return the same in Markdown."""
    return "\n\n".join([_mark_down(_layer_cells(result)), _mark_down(_total_cells(result)), *_legend(result)])


def write_csv(result: Complexity, path: str | Path) -> Path:
    """Write one line per row of ``result``: plain counts, bytes and milliseconds; absent values are empty.

    Returns:
        The path; its folder is made.
    """
    path = Path(path)
    costs = {"": "cost", "dense_": "dense", "parent_": "parent"}
    words = ("name", "kind", "kernel_size", "stride", "groups", "rank", "calls", "input_shape", "output_shape")
    times = ("milliseconds", "dense_milliseconds", "parent_milliseconds")
    fields = tuple(Cost.__dataclass_fields__)
    rows: list[Sequence[object]] = [(*words, *(prefix + field for prefix in costs for field in fields), *times, "note")]
    for row in result.rows:
        numbers = [getattr(getattr(row, cost), field) for cost in costs.values() for field in fields]
        rows.append((*(_plain(getattr(row, w)) for w in words), *numbers, *(getattr(row, t) for t in times), row.note))
    write_rows(path, rows)
    return path


def short_number(value: float) -> str:
    """Write three digits and a unit.

    Returns:
        At most five characters up to a quadrillion.

    Example:
        >>> [short_number(n) for n in (0, 64, 8640, 110592, 2580160, 22158704640)]
        ['0', '64', '8.64k', '111k', '2.58M', '22.2G']
    """
    if value < 999.5:
        return f"{value:.0f}"
    value, unit = value / 1000, "k"
    for larger in "MGT":
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"


def _layer_cells(result: Complexity) -> list[list[str]]:
    """Return the header and a line per convolution and linear layer, then one for norms and one for the rest."""
    detailed = [row for row in result.rows if row.cost.macs or row.dense.macs or row.note.startswith("never")]
    rest = [row for row in result.rows if row not in detailed]
    norms = [row for row in rest if row.kind != "other"]
    skip = _common_prefix([row.name for row in result.rows if row.kind != "other"])
    columns: _Columns = {
        "layer": lambda row: _fit(row.name[skip:] or row.kind),
        "kind": _kind,
        "kernel": lambda row: _times(row.kernel_size) + ("" if set(row.stride) <= {1} else f"/{_stride(row.stride)}"),
        "output": lambda row: _times(row.output_shape),
        "params": lambda row: short_number(row.cost.parameters),
        "dense": lambda row: short_number(row.dense.parameters),
        "MACs": lambda row: short_number(row.cost.macs),
        "dense ": lambda row: short_number(row.dense.macs),
    }
    if result.sees_time:
        columns["2-D"] = lambda row: short_number(row.parent.macs)
    columns["activ."] = lambda row: f"{short_number(row.cost.activation_bytes)}B"
    if result.milliseconds is not None:
        columns["ms"] = lambda row: _milliseconds(row.milliseconds)
        columns["dense  "] = lambda row: _milliseconds(row.dense_milliseconds)
        if result.sees_time:
            columns["2-D "] = lambda row: _milliseconds(row.parent_milliseconds)
    lines = [list(columns), *([cell(row) for cell in columns.values()] for row in detailed)]
    if norms:
        summed = LayerComplexity(
            "norms",
            f"{len(norms)} layer{'s' * (len(norms) > 1)}",
            cost=sum((row.cost for row in norms), Cost()),
            dense=sum((row.dense for row in norms), Cost()),
        )
        lines.append([_summed_cell(title, cell, summed) for title, cell in columns.items()])
    for row in rest:
        if row.kind == "other":
            lines.append([_summed_cell(title, cell, row) for title, cell in columns.items()])
    return lines


def _summed_cell(title: str, cell: Callable[[LayerComplexity], str], row: LayerComplexity) -> str:
    if title == "layer":
        return row.name
    return cell(row) if title in ("kind", "params", "dense") or (title == "activ." and row.kind != "other") else ""


def _total_cells(result: Complexity) -> list[list[str]]:
    """Return the totals of the network, its dense twin and its parent, with how many times as much that is."""
    # A network without CP layers is its own twin, and one without taps in time its own parent.
    own = result.total
    networks = {"this network": (own, "milliseconds")}
    if result.dense != own:
        title = "dense 3-D twin" if result.sees_time else "dense twin"
        networks[title] = (result.dense, "dense_milliseconds")
    if result.sees_time:
        networks["dense 2-D on each frame"] = (result.parent, "parent_milliseconds")
    lines = [["total", "params", "MACs", "activations", "kept for backward"]]
    if result.milliseconds is not None:
        lines[0] += ["layers, ms", "whole pass, ms"]
    own_time = sum(row.milliseconds or 0 for row in result.rows)
    for title, (cost, column) in networks.items():
        line = [
            title,
            _against(cost.parameters, own.parameters),
            _against(cost.macs, own.macs),
            _against(cost.activation_bytes, own.activation_bytes, "B"),
            _against(cost.saved_bytes, own.saved_bytes, "B"),
        ]
        if result.milliseconds is not None:
            spent = sum(getattr(row, column) or 0 for row in result.rows)
            ratio = f" ({spent / own_time:.2f}x)" if spent != own_time and own_time else ""
            line += [f"{spent:.1f}{ratio}", f"{result.milliseconds:.1f}" if cost is own else ""]
        lines.append(line)
    return lines


def _legend(result: Complexity) -> list[str]:
    return [_LEGEND] if any(row.rank is not None for row in result.rows) else []


def _against(value: int, own: int, unit: str = "") -> str:
    ratio = f" ({value / own:.2f}x)" if own and value != own else ""
    return f"{short_number(value)}{unit}{ratio}"


def _kind(row: LayerComplexity) -> str:
    if row.note.startswith("never"):
        return "not called"
    if not row.kernel_size:
        return {"Linear": "linear", "other": ""}.get(row.kind, row.kind)
    if row.rank is not None:
        return f"CP {row.rank}"
    return "dense" if row.groups == 1 else f"groups {row.groups}"


def _times(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)


def _stride(stride: Sequence[int]) -> str:
    return str(stride[0]) if len(set(stride)) == 1 else _times(stride)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _plain(value: object) -> object:
    return _times(value) if isinstance(value, tuple) else value


def _fit(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"


def _common_prefix(names: Sequence[str]) -> int:
    """Length of the leading parts, dots included, that all names share; none of a single name."""
    parts = [name.split(".")[:-1] for name in names]
    length = 0
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        length += len(level[0]) + 1
    return length if len(names) > 1 else 0


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Put words left and numbers right; the last word column is the one before the parameters."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = lines[0].index("params")
    rows = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(row.rstrip() for row in rows)


def _mark_down(lines: Sequence[Sequence[str]]) -> str:
    left = lines[0].index("params")
    rule = ["---" if i < left else "---:" for i in range(len(lines[0]))]
    header = [title.strip() for title in lines[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines[1:]))
