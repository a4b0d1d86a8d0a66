"""A derived network as an ONNX file, for programs without torch. Needs the extra `onnx`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from darts_lib.engine.refusals import SettingsError
from darts_lib.network import CellStack


class LogitsOnly(nn.Module):
    """A network that returns its logits alone, which is what an exported file computes."""

    def __init__(self, net: CellStack) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return `(batch, classes)` for `(batch, channels, height, width)`."""
        logits: Tensor = self.net(images)[0]
        return logits


def export_onnx(net: CellStack, path: Path, image: Sequence[int]) -> None:
    """Write a network as ONNX for any batch of images `(channels, height, width)`.

    Needs the extra `onnx`; raises SettingsError where it is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"ONNX export needs {error.name}: pip install 'darts-lib[onnx]'"
        ) from error
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        LogitsOnly(net).eval(),
        (torch.zeros(2, *image),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
