"""A derived network as an ONNX file, for programs without torch. Needs the extra `onnx`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from darts_lib.engine.files import write_whole
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


def export_onnx(
    net: CellStack, path: Path, image: Sequence[int], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a network as ONNX for any batch of images `(channels, height, width)`, whole or not.

    Height and width are fixed: torch's exporter finds none of them free in these networks. What the
    `metadata` hold, such as the names of the classes, stands in the file's as JSON, and the graph's
    documentation says what is fed to it. Needs the extra `onnx`; raises SettingsError without it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"ONNX export needs {error.name}: pip install 'darts-lib[onnx]'"
        ) from error
    batch, given = torch.export.Dim("batch", min=1), dict(metadata or {})
    program: Any = torch.onnx.export(
        LogitsOnly(net).eval(),
        (torch.zeros(2, *image),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    program.model.doc_string = program.model.graph.doc_string = _documentation(image, given)
    properties = {name: json.dumps(value) for name, value in given.items()}
    program.model.metadata_props.update(properties)
    write_whole(path, program.model_proto.SerializeToString())


def _documentation(image: Sequence[int], given: Mapping[str, Any]) -> str:
    channels, height, width = image
    colours = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} channels")
    what = (
        f"images: float32 (batch, {channels}, {height}, {width}), {colours}; logits: (batch, "
        "classes), in the order of the metadata's classes."
    )
    if "mean" not in given:
        return f"{what} How pixels were normalised in training is not known."
    low, high = given["scale"]["low"], given["scale"]["high"]
    return (
        f"{what} Pixels of {low:g} to {high:g}, less {low:g}, are divided by {high - low:g}, then "
        f"less mean {given['mean']} divided by std {given['std']}, a figure a channel."
    )
