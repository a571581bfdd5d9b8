"""Formulas against what really runs: parameters of layers, FLOPs that PyTorch counts, tensors that autograd keeps."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hocp_mm.functional import cp_conv, cp_conv_folded
from hocp_mm.functional.cost import Cost, conv_cost, linear_cost, paper_flops
from hocp_mm.functional.cp import CPKernel, merged_taps
from hocp_mm.functional.cp_conv import depthwise, project_in, project_out
from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d, factorize_
from tests.laws import DENSE_CONV, random_kernel

CP_LAYERS = {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}
SETTINGS = {
    "a sequence": {"taps": (5,), "sizes": (11,), "padding": 2},
    "an image": {"taps": (3, 3), "sizes": (6, 7), "padding": 1},
    "an image at stride 2": {"taps": (3, 3), "sizes": (9, 8), "padding": 1, "stride": 2},
    "a clip": {"taps": (3, 3, 3), "sizes": (4, 6, 5), "padding": 1},
    "anisotropic": {
        "taps": (2, 3, 5), "sizes": (5, 9, 11), "stride": (1, 2, 3), "padding": (0, 1, 2), "dilation": (2, 1, 2),
    },
    "a strided last mode": {"taps": (3, 3), "sizes": (8, 9), "stride": (1, 3), "padding": "valid"},
    "grouped": {"taps": (3, 3), "sizes": (6, 6), "padding": "same", "groups": 2},
    "a 1x1": {"taps": (1, 1), "sizes": (4, 4), "stride": 2},
}  # fmt: skip


def split(case: str) -> tuple[tuple[int, ...], tuple[int, ...], dict]:
    options = dict(SETTINGS[case])
    return options.pop("taps"), options.pop("sizes"), options


def on_meta(kernel: CPKernel) -> CPKernel:
    """Drop the data: no fast path of a real device can then take the convolution from PyTorch's counter."""
    factors = {name: factor.to("meta", torch.float32) for name, factor in kernel.factors.items()}
    return CPKernel(kernel.weights.to("meta", torch.float32), factors, kernel.groups)


def convolution_macs(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    flops = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [8, "x1.5", "same"])
@pytest.mark.parametrize("case", SETTINGS)
def test_parameters_are_those_of_the_layers(case, rank, bias):
    taps, sizes, options = split(case)
    layer = CP_LAYERS[len(taps)](4, 6, taps, bias=bias, rank=rank, **options)
    dense = layer.dense_class(4, 6, taps, bias=bias, **options)
    for module, own_rank in ((layer, rank), (dense, None)):
        cost = conv_cost(4, 6, taps, sizes, bias=bias, rank=own_rank, **options)
        assert cost.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("form", ["auto", "factorized", "mobilenet", "reconstructed", "dense"])
@pytest.mark.parametrize("case", SETTINGS)
def test_macs_are_those_that_pytorch_counts(case, form):
    taps, sizes, options = split(case)
    kernel = on_meta(random_kernel(out=6, in_=4, taps=taps, rank=8, groups=options.get("groups", 1)))
    x = torch.empty(2, 4, *sizes, device="meta")
    if form == "dense":
        weight = torch.empty(kernel.shape, device="meta")
        expected = convolution_macs(lambda: DENSE_CONV[len(taps)](x, weight, **options))
        cost = conv_cost(4, 6, taps, sizes, batch=2, **options)
    else:
        run = {name: value for name, value in options.items() if name != "groups"}
        expected = convolution_macs(lambda: cp_conv(x, kernel, **run, implementation=form))
        cost = conv_cost(4, 6, taps, sizes, batch=2, rank=8, implementation=form, **options)
    assert cost.macs == expected


def test_the_fused_form_writes_no_inner_activation():
    words, more = (4, 6, (3, 3, 3), (5, 8, 6)), {"stride": (1, 2, 2), "padding": 1, "rank": 8}
    fused, folded = (conv_cost(*words, **more, implementation=form) for form in ("fused", "frame_folded"))
    assert (fused.parameters, fused.macs, fused.output_bytes) == (folded.parameters, folded.macs, folded.output_bytes)
    assert (fused.inner_bytes, fused.saved_bytes) == (0, 4 * 4 * 5 * 8 * 6)
    image = [conv_cost(4, 6, (3, 3), (8, 6), rank=8, implementation=form).macs for form in ("fused", "mobilenet")]
    assert image[0] == image[1]


@pytest.mark.parametrize("rank", [2, 200])
def test_auto_counts_as_the_form_that_runs(rank):
    named = {f: conv_cost(4, 6, (3, 3), (5, 5), rank=rank, implementation=f) for f in ("mobilenet", "reconstructed")}
    assert named["mobilenet"].macs != named["reconstructed"].macs
    assert conv_cost(4, 6, (3, 3), (5, 5), rank=rank).macs == min(cost.macs for cost in named.values())


def kept_bytes(run, *leaves: torch.Tensor) -> int:
    """Bytes that autograd keeps from ``run``, parameters (``leaves``) apart; tensors in one storage count once."""
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # held: freed storages would lend their addresses to others
    assert result.requires_grad
    return sum(kept.values())


def plain_chain(x, kernel, passes):
    z = project_in(x, kernel)
    for modes, options in passes:
        z = depthwise(z, merged_taps(kernel, modes).reshape(kernel.rank, *options.pop("taps")), **options)
    return project_out(z, kernel, None)


FORMS = {
    "mobilenet": [(("h", "w"), {"taps": (3, 3), "stride": (2, 1), "pads": ((1, 1), (1, 1)), "dilation": (1, 1)})],
    "factorized": [
        (("h",), {"taps": (3, 1), "stride": (2, 1), "pads": ((1, 1), (0, 0)), "dilation": (1, 1)}),
        (("w",), {"taps": (1, 3), "stride": (1, 1), "pads": ((0, 0), (1, 1)), "dilation": (1, 1)}),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_saved_bytes_are_what_plain_autograd_keeps_of_the_data(form):
    kernel = random_kernel(requires_grad=True)

    def run(batch: int) -> int:
        x = torch.randn(batch, 4, 8, 7, dtype=torch.float64, requires_grad=True)
        passes = [(modes, dict(options)) for modes, options in FORMS[form]]
        return kept_bytes(lambda: plain_chain(x, kernel, passes), kernel.weights, *kernel.factors.values())

    # What does not grow with the batch (merged taps, output projection) is no activation.
    cost = conv_cost(4, 6, (3, 3), (8, 7), stride=(2, 1), padding=1, rank=8, implementation=form, dtype=torch.float64)
    assert run(3) - run(1) == 2 * cost.saved_bytes


def test_saved_bytes_of_the_dense_convolution():
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    x = torch.randn(2, 4, 8, 7, requires_grad=True)
    kept = kept_bytes(lambda: nn.functional.conv2d(x, weight), weight)
    assert kept == conv_cost(4, 6, (3, 3), (8, 7), batch=2).saved_bytes


def test_the_frame_folded_form_counts_macs_and_saved_bytes_of_all_frames():
    kernel = random_kernel(taps=(3, 3, 3), requires_grad=True)
    frames, settings = 5, ((2, 2), ((1, 1), (1, 1)), (1, 1))
    cost = conv_cost(
        4, 6, (3, 3, 3), (frames, 8, 6), stride=(1, 2, 2), padding=1, rank=8, implementation="frame_folded",
        dtype=torch.float64,
    )  # fmt: skip

    def run(batch: int) -> int:
        images = torch.randn(batch * frames, 4, 8, 6, dtype=torch.float64, requires_grad=True)
        images = images.to(memory_format=torch.channels_last)
        leaves = (kernel.weights, *kernel.factors.values())
        return kept_bytes(lambda: cp_conv_folded(images, kernel, None, *settings, frames=frames, before=1), *leaves)

    assert run(3) - run(1) == 2 * cost.saved_bytes
    images = torch.empty(2 * frames, 4, 8, 6, device="meta")
    macs = convolution_macs(lambda: cp_conv_folded(images, on_meta(kernel), None, *settings, frames=frames, before=1))
    assert macs == 2 * cost.macs


def test_bytes_follow_the_dtype_and_inner_bytes_are_the_rank_activations():
    cost = conv_cost(4, 6, (3, 3), (8, 8), stride=2, padding=1, rank=10, batch=3, dtype=torch.bfloat16)
    assert cost.output_bytes == 2 * 3 * 6 * 4 * 4
    assert cost.inner_bytes == 2 * 3 * 10 * (8 * 8 + 4 * 4)
    assert cost.activation_bytes == cost.output_bytes + cost.inner_bytes
    assert cost.saved_bytes == 2 * 3 * 4 * 8 * 8 + cost.inner_bytes


def test_costs_add_up():
    first, second = conv_cost(4, 6, (3,), (9,), rank=3), linear_cost(6, 2, 7)
    total = sum((first, second), Cost())
    assert total.macs == first.macs + second.macs
    assert total.parameters == first.parameters + second.parameters
    assert total.saved_bytes == first.saved_bytes + second.saved_bytes
    with pytest.raises(TypeError):
        first + 1


# Bars of the paper's FLOP figure, GFLOP, input 16 x 32 x 32: HO-CP-3, HO-CP-6, dense.
BARS = {
    (128, 128): ("3.477", "6.912", "14.50"),
    (128, 256): ("5.087", "10.133", "29.00"),
    (256, 256): ("13.40", "26.71", "57.99"),
    (256, 512): ("19.84", "39.60", "115.98"),
    (512, 512): ("52.56", "104.96", "231.95"),
}


@pytest.mark.parametrize("channels", BARS, ids=str)
def test_the_paper_s_flop_figure(channels):
    in_channels, out_channels = channels
    positions = 16 * 32 * 32
    for rank, bar in zip((3 * in_channels, 6 * in_channels, None), BARS[channels], strict=True):
        value = float(bar)
        # 0.01 % of the bar, which is given here to a fixed number of digits: half of the last one is its rounding.
        reading = 0.5 * 10.0 ** -len(bar.partition(".")[2])
        flops = paper_flops(*channels, positions, rank) / 1e9
        assert abs(flops - value) <= 1e-4 * value + reading
        cost = conv_cost(
            *channels, (3, 3, 3), (16, 32, 32), padding=1, rank=rank, implementation="factorized", bias=rank is None
        )
        assert 2 * cost.macs / 1e9 == pytest.approx(value, rel=0.05)
        if rank is not None:
            assert 2 * cost.macs == 2 * positions * rank * (in_channels + out_channels + 9)
            assert cost.parameters == rank * (in_channels + out_channels + 9 + 1)


# Millions of parameters of ResNet-18: sixteen CP kernels in 2-D and 3-D; for dense also stem and shortcuts.
TOTALS = {"x1": (2.38, 2.39), "x3": (7.14, 7.17), "same": (11.00, 11.04), "x6": (14.27, 14.33)}


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("resnet18")


def test_dense_resnet18_totals(resnet18):
    convs = [m for m in resnet18.modules() if isinstance(m, nn.Conv2d)]
    flat = [conv_cost(c.in_channels, c.out_channels, c.kernel_size, c.kernel_size).parameters for c in convs]
    assert sum(flat) == sum(c.weight.numel() for c in convs)
    assert sum(flat) / 1e6 == pytest.approx(11.17, abs=0.005)
    # In 3-D all but the 1x1 shortcuts have three taps in time.
    deep = [own * (3 if max(c.kernel_size) > 1 else 1) for c, own in zip(convs, flat, strict=True)]
    assert sum(deep) / 1e6 == pytest.approx(33.16, abs=0.005)


@pytest.mark.parametrize("rank", TOTALS)
def test_factorized_resnet18_totals(rank):
    network = timm.create_model("resnet18")
    replaced = [network.get_submodule(name) for name in factorize_(network, rank, fit=False)]
    assert len(replaced) == 16
    counts = [0, 0]
    for layer in replaced:
        own = sum(p.numel() for p in layer.parameters())
        words = (layer.in_channels, layer.out_channels)
        assert conv_cost(*words, (3, 3), (3, 3), rank=rank).parameters == own
        counts[0] += own
        # Transducted layers keep the number of components of the image layer.
        counts[1] += conv_cost(*words, (3, 3, 3), (3, 3, 3), rank=layer.rank).parameters
    assert [round(count / 1e6, 2) for count in counts] == list(TOTALS[rank])


REFUSALS = {
    "groups": ({"groups": 3}, "groups must divide in_channels and out_channels, got groups=3"),
    "a rank that groups do not divide": ({"groups": 2, "rank": 3}, "groups=2, got 3"),
    "an unknown form": ({"implementation": "fast"}, "implementation must be one of .* got 'fast'"),
    "a folded image": ({"rank": 2, "implementation": "frame_folded"}, "'frame_folded' needs 3 convolved modes, got 2"),
    "sizes of another order": ({"sizes": (8,)}, r"sizes must be 2 ints as the kernel \(3, 3\), got \(8,\)"),
    "output sizes of another order": ({"output_sizes": (8,)}, "output_sizes must be 2 ints"),
    "too large a kernel": ({"dilation": 4}, r"must not exceed the padded input, got \(9, 9\) on \(8, 8\)"),
    "an unknown padding": ({"padding": "full"}, "'same', 'valid' or 'tf_same', got 'full'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(change, message):
    settings = {"sizes": (8, 8), **change}
    with pytest.raises(ValueError, match=message):
        conv_cost(4, 6, (3, 3), **settings)
