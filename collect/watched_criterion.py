"""A criterion that records the clean loss and margin of each sample and returns what it returned before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

OnCall = Callable[[torch.Tensor, Any], None]


class WatchedCriterion(nn.Module):
    """Wraps a loss function or module: same arguments, same result, same parameters.

    ``on_call(output, target)`` sees every call's first two arguments, the output detached.
    """

    def __init__(self, criterion: Callable[..., Any], on_call: OnCall) -> None:
        super().__init__()
        self.criterion = criterion
        # Under torch.compile the recording stays outside the graph: it looks at Python state.
        self._on_call = torch.compiler.disable(on_call)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.criterion(*args, **kwargs)
        output = args[0] if args else kwargs.get("input")
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if torch.is_grad_enabled():
            self._on_call(output, target)
        return result
