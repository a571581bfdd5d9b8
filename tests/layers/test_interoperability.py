"""CP layers where ``nn.ConvNd`` can stand: precisions, memory formats, compilers, exporters, copies, ConvModule."""

import copy
import pickle

import pytest
import torch
from torch import nn

from hocp_mm.functional import dense_kernel
from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv2d, HOCPConv3d, transduct_
from hocp_mm.layers.exporting import exportable
from tests.laws import assert_close, relative_error

ORDERS = {1: (HOCPConv1d, nn.Conv1d), 2: (HOCPConv2d, nn.Conv2d), 3: (HOCPConv3d, nn.Conv3d)}
IMPLEMENTATIONS = ["auto", "factorized", "mobilenet", "fused", "reconstructed"]
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
ALL = {
    "inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "SiLU"}, "gate_cfg": {"type": "SE", "reduction": 2},
    "dropout": 0.3,
}  # fmt: skip
EVERY = [(order, implementation) for order in ORDERS for implementation in IMPLEMENTATIONS]
# One unit in the last place; the CP forms round after each of their stages, the dense one once.
EPS = {torch.float64: 2**-52, torch.float32: 2**-23, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def twins(order, implementation, **options):
    """Make a CP layer and the dense layer with its kernel."""
    cp_class, dense_class = ORDERS[order]
    layer = cp_class(8, 12, 3, padding=1, rank=6, implementation=implementation, **options)
    dense = dense_class(8, 12, 3, padding=1, **{k: v for k, v in options.items() if k == "dtype"})
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(layer.kernel()))
        dense.bias.normal_()
        layer.bias.copy_(dense.bias)
    return layer, dense


def data(order, batch=2, size=6, **options):
    return torch.randn(batch, 8, *[size] * order, **options)


@pytest.mark.parametrize(("order", "implementation"), EVERY)
@pytest.mark.parametrize("dtype", EPS)
def test_every_precision_has_the_error_of_its_rounding(order, implementation, dtype):
    exact, _ = twins(order, implementation, dtype=torch.float64)
    x = data(order, dtype=torch.float64)
    try:
        output = copy.deepcopy(exact).to(dtype)(x.to(dtype))
    except RuntimeError as error:  # older builds of PyTorch convolve half precision on GPUs only
        with pytest.raises(RuntimeError):
            ORDERS[order][1](8, 12, 3).to(dtype)(x.to(dtype))
        pytest.skip(f"PyTorch has no such convolution here: {error}")
    assert output.dtype == dtype
    assert relative_error(output, exact(x)) < 4 * EPS[dtype]


@pytest.mark.parametrize(("order", "implementation"), EVERY)
def test_autocast_gives_the_dtype_of_a_dense_layer_and_its_error(order, implementation):
    layer, dense = twins(order, implementation)
    x = data(order).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output, reference = layer(x), dense(x)
    assert output.dtype == reference.dtype == torch.bfloat16
    assert relative_error(output, dense(x)) < 4 * EPS[torch.bfloat16]
    output.float().square().mean().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


@pytest.mark.parametrize("order", ORDERS)
def test_psi_and_gate_run_under_autocast(order):
    layer = ORDERS[order][0](8, 12, 3, rank=6, **{**ALL, "dropout": 0}).eval()
    nn.init.normal_(layer.gate.expand.weight)
    x = data(order)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    assert relative_error(output, layer(x)) < 4 * EPS[torch.bfloat16]


PLAIN, GATED = {}, {"gate_cfg": {"type": "SE"}}  # a gate has no rebuilt kernel
WITH_FORMATS = [
    (order, form, options)
    for order, form in EVERY
    for options in ((PLAIN,) if form == "reconstructed" else (PLAIN, GATED))
    if order in FORMATS
]


@pytest.mark.parametrize(("order", "implementation", "options"), WITH_FORMATS)
def test_memory_formats_pass_through(order, implementation, options):
    layer, _ = twins(order, implementation, **options)
    x = data(order)
    assert layer(x).is_contiguous()
    output = layer(x.to(memory_format=FORMATS[order]))
    assert output.is_contiguous(memory_format=FORMATS[order])
    assert_close(output, layer(x), 1e-6, "another format")


@pytest.mark.parametrize(("order", "implementation"), EVERY)
def test_single_samples_and_empty_batches(order, implementation):
    layer, dense = twins(order, implementation)
    x = data(order)
    assert_close(layer(x[0]), dense(x[0]), 1e-5, "unbatched")
    assert layer(x[:0]).shape == dense(x[:0]).shape


@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all options"])
def test_copies_and_pickles_compute_the_same(options):
    layer = HOCPConv2d(8, 12, 3, rank=6, **options).eval()
    x = data(2)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in layer.parameters()}
    other = HOCPConv2d(8, 12, 3, rank=6, **options).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_a_state_dict_without_psi_and_gate_lacks_exactly_those():
    plain, full = HOCPConv2d(8, 12, 3, rank=6), HOCPConv2d(8, 12, 3, rank=6, **ALL)
    result = full.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert {name.split(".")[0] for name in result.missing_keys} == {"inner", "gate"}
    with pytest.raises(RuntimeError, match=r"Missing key.*inner\.norm\.weight"):
        full.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(
    "implementation",
    ["mobilenet", *(pytest.param(i, marks=pytest.mark.slow) for i in ("factorized", "reconstructed"))],
)
def test_one_graph_for_training_and_any_size(implementation):
    options = {"dropout": 0.3} if implementation == "reconstructed" else ALL
    layer = HOCPConv2d(8, 12, 3, rank=6, implementation=implementation, **options)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    torch.manual_seed(1)
    output = compiled(data(2))
    torch.manual_seed(1)
    assert_close(output, layer(data(2)), 1e-6, "training, the same components dropped")
    layer.eval()
    for batch, size in ((2, 6), (3, 9)):
        x = data(2, batch, size)
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all options"])
@pytest.mark.parametrize(("order", "implementation"), EVERY)
def test_one_graph_with_its_backward_pass(order, implementation, options):
    if options and implementation == "reconstructed":
        options = {"dropout": 0.3}
    layer = ORDERS[order][0](8, 12, 3, rank=6, implementation=implementation, **options)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(data(order)).square().mean().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    assert_close(compiled(data(order).fill_(0.5)), layer(data(order).fill_(0.5)), 1e-6, "compiled")


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_inductor_computes_the_same(order):
    layer = ORDERS[order][0](8, 12, 3, rank=6, **ALL).eval()
    torch._dynamo.reset()
    x = data(order)
    assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), 1e-5, "inductor")


def video_network() -> tuple[nn.Module, FrameAxis]:
    axis = FrameAxis()
    network = nn.Sequential(HOCPConv2d(8, 12, 3, padding=1, rank=6, **ALL))
    transduct_(network, 3, frame_axis=axis)
    nn.init.normal_(network[0].factors["t"])
    axis.length = 3
    return network.eval(), axis


@pytest.mark.parametrize(("order", "implementation"), [(1, "mobilenet"), (2, "reconstructed"), (3, "factorized")])
def test_exported_programs_take_any_batch_and_size(order, implementation):
    layer, _ = twins(order, implementation)
    axes = {0: torch.export.Dim("batch", min=1), **{2 + a: torch.export.Dim(f"size{a}", min=4) for a in range(order)}}
    program = torch.export.export(exportable(layer), (data(order),), dynamic_shapes={"x": axes})
    x = data(order, batch=3, size=8)
    assert_close(program.module()(x), layer(x), 1e-6, "exported")


def test_a_model_made_exportable_is_a_copy_in_evaluation_mode():
    layer = HOCPConv2d(8, 12, 3, rank=6, **ALL)
    twin = exportable(nn.Sequential(layer))
    assert layer.training
    assert not twin[0].inner.norm.training
    assert [n for n, _ in layer.factors.named_parameters()] == ["h", "in", "out", "w"]
    assert_close(twin(data(2).fill_(0.5)), layer.eval()(data(2).fill_(0.5)), 0, "copy")
    network, _ = video_network()
    assert torch.equal(exportable(network)(data(2, batch=6).fill_(1)), network(data(2, batch=6).fill_(1)))


ONNX = {
    "2-D, one tap at a time": (lambda: twins(2, "factorized")[0], 2, 2),
    "3-D, taps merged": (lambda: twins(3, "mobilenet")[0], 3, 2),
    "3-D, Psi and gate": (lambda: HOCPConv3d(8, 12, 3, rank=6, **ALL), 3, 2),
    "a dense kernel": (lambda: twins(2, "reconstructed")[0], 2, 2),
    "folded frames": (lambda: video_network()[0], 2, 6),
}


def _exports_a_convolution() -> bool:
    try:
        torch.onnx.export(nn.Conv2d(1, 1, 1), (torch.ones(1, 1, 1, 1),), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "case", ["folded frames", *(pytest.param(c, marks=pytest.mark.slow) for c in ONNX if c != "folded frames")]
)
def test_onnx_runtime_computes_the_same(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an exporter that fails leaves a report here
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs it")
    runtime = pytest.importorskip("onnxruntime", reason="it runs what was exported")
    make, order, batch = ONNX[case]
    model, x = make().eval(), data(order, batch)
    try:
        program = torch.onnx.export(exportable(model), (x,), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError:
        if _exports_a_convolution():
            raise
        pytest.skip("this torch with this onnxscript does not even export nn.Conv2d")
    proto = program.model_proto
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(output), model(x), 1e-5, "onnxruntime")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    kernels = [shapes[node.input[1]] for node in proto.graph.node if node.op_type == "Conv"]
    assert max(len(shape) for shape in kernels) == order + 2, "folded frames need 2-D convolutions only"


def test_mmcv_builds_the_layer_inside_its_conv_module():
    cnn = pytest.importorskip("mmcv.cnn", reason="ConvModule is mmcv's")
    import hocp_mm.models  # noqa: F401 - registers the layers

    module = cnn.ConvModule(
        8, 12, 3, padding=1, norm_cfg={"type": "BN"}, conv_cfg={"type": "hocp_mm.HOCPConv2d", "rank": 6, **ALL}
    )
    before = copy.deepcopy(module.conv.state_dict())
    module.init_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.conv.state_dict().items())
    assert (module.conv.rank, module.conv.dropout) == (6, 0.3)
    assert module.conv.bias is None
    assert module(data(2)).shape == (2, 12, 6, 6)
