"""Layers as single nodes of ``torch.fx`` graphs.

Our forward passes look at sizes, which symbolic tracing does not know. A tracer takes layers of ``torch.nn`` as they
are and traces into all others, unless it is told of them: timm's knows a list, torchvision's takes one as an argument.
Here a layer says it itself, to every tracer.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.fx import Proxy


def fx_leaf(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a forward pass become one node where it is called with a stand-in for a tensor.

    Args:
        forward: Method of a module.

    Returns:
        The method. A layer that is traced alone, not inside of a network, is no leaf.
    """

    @functools.wraps(forward)
    def traced(self: nn.Module, *args: Any, **named: Any) -> Any:
        for arg in (*args, *named.values()):  # a loop, which dynamo of torch 2.4 follows
            if isinstance(arg, Proxy) and (tracer := cast("Any", arg.tracer)).root is not self:
                return tracer.create_proxy("call_module", tracer.path_of_module(self), args, named)
        return forward(self, *args, **named)

    return traced
