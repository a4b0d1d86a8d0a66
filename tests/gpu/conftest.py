"""Tests in this folder need CUDA: `pytest tests/gpu`."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder `gpu`, and skip it where torch finds no CUDA device."""
    found = torch.cuda.is_available()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not found:
                reason = "no CUDA device, or hidden: name the folder alone, pytest tests/gpu"
                item.add_marker(pytest.mark.skip(reason=reason))
