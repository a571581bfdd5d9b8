"""Where a network looks: Grad-CAM of valence and arousal over the feature map of a layer.

    weight[c, t] = mean_{h, w} d(sum_s y[s]) / dA[c, t, h, w]          map[t, h, w] = sum_c weight[c, t] A[c, t, h, w]

``y[s]`` is valence, or arousal, of frame s of a window, and ``A`` what the layer gives. Where a mean over space and a
linear layer follow, the cells of a map sum to the prediction of its frame without the bias.

Source: Selvaraju et al., ICCV 2017 (arXiv 1610.02391). We differ: no ReLU, because what lowers a value is worth as much
as what raises it; a weight for each frame, so that one window does not mix what its frames mean; and the target is the
sum over the frames of a window, so that what a frame does for its neighbours counts, too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.errors import HOCPError
from hocp_mm.layers import name_matcher

_NEAR = 12  # names in a message


def find_layer(model: nn.Module, clip: Tensor, pattern: str | None = None) -> str:
    """Return the name of the last layer, in the order in which they run, that gives a feature map.

    Args:
        model: Recogniser in evaluation mode; ``model(clip, mode="tensor")`` gives ``[N, T, 2]``.
        clip: What it is run on, normalised, ``[1, C, T, H, W]``.
        pattern: Regular expression that is found in its name; by default all layers of the backbone.

    Returns:
        Name of a module: of those that match, the last one whose output has more than one cell in space and which runs
        once in a forward pass.

    Raises:
        HOCPError: If there is none, or the pattern is no regular expression.
    """
    try:
        wanted = name_matcher(["^backbone"] if pattern is None else [pattern])
    except ValueError as error:
        raise HOCPError(f"--layer: must be a regular expression on names of layers, got {pattern!r:.100}.") from error
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: ran.append(name) if _is_map(_last(output)) else None
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(clip, mode="tensor")
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name in ran if ran.count(name) == 1]
    found = [name for name in once if wanted(name)]
    if not found:
        raise HOCPError(
            f"--layer: must match a layer that gives a feature map, got {pattern!r:.100}; the last ones are "
            f"{', '.join(once[-_NEAR:]) or 'none'}."
        )
    return found[-1]


class GradCam:
    """Grad-CAM of one layer of a recogniser, window by window.

    No gradient reaches the layers before it, and none is accumulated in any parameter.

    Args:
        model: Recogniser in evaluation mode whose parameters want no gradient (``requires_grad_(False)``).
        layer: Name of the layer (see `find_layer`).
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        self._model, self._layer = model, model.get_submodule(layer)

    def __call__(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Explain a batch of windows.

        Args:
            clips: Normalised, ``[N, C, T, H, W]``.

        Returns:
            Predictions ``[N, T, 2]``, and maps ``[N, T, 2, h, w]`` of valence and arousal, in units of the prediction.
            Where the layer has fewer frames than the clip, frames share maps.

        Raises:
            HOCPError: If no gradient of the predictions comes back to the layer.
        """
        seen: list[Tensor] = []

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            seen.append(_last(output).detach().requires_grad_())
            mine = seen[-1].clone()  # what follows may work in place, which a leaf forbids
            return (*output[:-1], mine) if isinstance(output, tuple) else mine

        handle = self._layer.register_forward_hook(hook)
        try:
            with torch.enable_grad():
                pred = self._model(clips, mode="tensor")
                (features,) = seen
                maps = [self._map(pred[..., index], features, clips) for index in range(2)]
        finally:
            handle.remove()
        return pred.detach(), torch.stack(maps, dim=2)

    @staticmethod
    def _map(values: Tensor, features: Tensor, clips: Tensor) -> Tensor:
        """Return ``[N, T, h, w]`` of one output, ``[N, T]``."""
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), features, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise HOCPError("--layer: the predictions must depend on what the layer gives, and they do not.")
        number, _, frames = clips.shape[:3]
        found = (gradient.mean((-2, -1), keepdim=True) * features.detach()).sum(1)  # [N*T, h, w] or [N, T', h, w]
        if features.ndim == 4:
            found = found.unflatten(0, (number, -1))
        if found.shape[1] != frames:  # a stride in time
            found = found[:, torch.arange(frames, device=found.device) * found.shape[1] // frames]
        return found


def at_most(maps: Tensor, side: int) -> Tensor:
    """Return maps ``[N, T, 2, h, w]`` of ``side`` cells at most on each side; their sums over the cells stay."""
    height, width = maps.shape[-2:]
    size = min(height, side), min(width, side)
    if size == (height, width):
        return maps
    return F.adaptive_avg_pool2d(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2]) * (
        height * width / (size[0] * size[1])
    )


def _last(output: Any) -> Any:
    return output[-1] if isinstance(output, tuple) and output else output


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim in (4, 5) and output.shape[-1] * output.shape[-2] > 1
