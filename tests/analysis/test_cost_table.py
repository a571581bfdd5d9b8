"""How the cost of a network is printed and written."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from hocp_mm.analysis.cost_table import markdown_tables, short_number, text_tables, write_csv
from hocp_mm.errors import HOCPError
from hocp_mm.functional import fold_frames
from hocp_mm.layers import FrameAxis, factorize_, transduct_
from hocp_mm.layers.complexity import Complexity, complexity


def network(temporal: bool = True) -> Complexity:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 1200, 3, stride=2), nn.PReLU()
    )
    model = nn.ModuleDict({"outer": nn.ModuleDict({"a_rather_long_name_of_a_stage": layers})})
    model.forward = lambda x: layers(x)
    factorize_(layers, 16, fit=False)
    axis = FrameAxis()
    if temporal:
        transduct_(layers, 3, frame_axis=axis)
        axis.length = 2
    return complexity(model, fold_frames(torch.zeros(1, 3, 2, 9, 9)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (9994, "9.99k"), (9996, "10.0k"), (99960, "100k"), (999600, "1.00M"),
     (22158704640, "22.2G"), (1234567890123456, "1235T")],
)  # fmt: skip
def test_three_digits_and_a_unit(value, text):
    assert short_number(value) == text


def test_the_layer_table_is_aligned_and_tells_layers_from_norms_and_the_rest():
    result = network()
    layers, totals, _ = (table.splitlines() for table in text_tables(result).split("\n\n"))
    assert " ".join(layers[0].split()) == "layer kind kernel output params dense MACs dense 2-D activ."
    assert len({len(line) for line in layers[:3]}) == 1
    # The part that all names share is left out.
    assert [line.split()[0] for line in layers[1:]] == ["0", "2", "norms", "other"]
    assert layers[1].split()[1:4] == ["dense", "3x3", "2x8x9x9"]
    assert layers[2].split()[1:5] == ["CP", "16", "3x3x3/1x2x2", "2x1200x4x4"]
    for name in ("params", "MACs", "2-D", "activ."):  # numbers end where their titles end
        end = layers[0].index(name) + len(name)
        assert all(line[end - 1].isdigit() or line[end - 1] in "kMGB" for line in layers[1:3])
        assert all(len(line) == end or line[end] == " " for line in layers[:3])
    assert [line.split("  ")[0] for line in totals] == [
        "total",
        "this network",
        "dense 3-D twin",
        "dense 2-D on each frame",
    ]
    parameters = result.dense.parameters / result.total.parameters
    assert f"{short_number(result.dense.parameters)} ({parameters:.2f}x)" in totals[2]


def test_an_image_network_has_no_parent_and_a_dense_one_no_twin():
    assert "2-D" not in text_tables(network(temporal=False))
    assert "dense twin" in text_tables(network(temporal=False))
    totals = text_tables(complexity(nn.Linear(3, 4), torch.zeros(2, 3))).split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in totals] == ["total", "this network"]


def test_the_legend_stands_where_there_are_components():
    legend = "Activations are those of PyTorch's own operations; the fused CPU kernel writes none of the rank's."
    dense = complexity(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 5, 5))
    for tables in (text_tables, markdown_tables):
        assert tables(network()).split("\n\n")[2:] == [legend]
        assert len(tables(dense).split("\n\n")) == 2


def test_times_stand_only_where_they_were_measured():
    assert "ms" not in text_tables(network()).replace(",", " ").split()
    result = complexity(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.zeros(1, 3, 5, 5), measure=1)
    layers, totals = (table.splitlines() for table in text_tables(result).split("\n\n"))
    assert layers[0].split()[-2:] == ["ms", "dense"]
    assert float(layers[1].split()[-1]) == pytest.approx(result.rows[0].milliseconds, abs=0.005)
    assert totals[0].endswith("layers, ms  whole pass, ms")
    assert float(totals[1].split()[-1]) == pytest.approx(result.milliseconds, abs=0.05)


def test_long_names_keep_their_end():
    model = nn.Sequential()
    model.add_module("x" * 40 + "_end", nn.Linear(2, 2))
    model.add_module("short", nn.Linear(2, 2))
    name = text_tables(complexity(model, torch.zeros(1, 2))).splitlines()[1].split()[0]
    assert name == "…" + "x" * 23 + "_end"
    assert len(name) == 28


def test_markdown_is_a_table_with_as_many_cells_in_each_line():
    layers, totals = (table.splitlines() for table in markdown_tables(network()).split("\n\n")[:2])
    for table in (layers, totals):
        assert len({line.count("|") for line in table}) == 1
        assert set(table[1]) == set("|-: ")
    assert layers[0] == "| layer | kind | kernel | output | params | dense | MACs | dense | 2-D | activ. |"


def test_the_csv_file_holds_every_row_and_bare_numbers(tmp_path: Path):
    result = network()
    path = write_csv(result, tmp_path / "new" / "cost.csv")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [row.name for row in result.rows]
    for field in ("parameters", "macs", "saved_bytes"):
        assert sum(int(line[field]) for line in lines) == getattr(result.total, field)
        assert sum(int(line[f"dense_{field}"]) for line in lines) == getattr(result.dense, field)
        assert sum(int(line[f"parent_{field}"]) for line in lines) == getattr(result.parent, field)
    assert lines[2]["kernel_size"] == "3x3x3"
    assert lines[2]["rank"] == "16"
    assert lines[0]["milliseconds"] == ""


def test_a_csv_file_that_cannot_be_written_is_the_user_s_error(tmp_path: Path):
    with pytest.raises(HOCPError, match=r"cannot be written \(something else than a file"):
        write_csv(network(), tmp_path)
