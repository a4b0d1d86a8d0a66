"""What all tests share: no window, no GPU outside tests/gpu, an empty runs folder, real data."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from sources import ROOT

GPU_TESTS = ROOT / "tests" / "gpu"
DATA = Path(os.environ.get("DARTS_LIB_DATA") or ROOT / "data")


def pytest_configure(config: pytest.Config) -> None:
    """Draw without a window, compute on one thread, and hide the GPU from all but tests/gpu."""
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    named = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]
    if not all(path == GPU_TESTS or GPU_TESTS in path.parents for path in named):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def runs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a runs folder of its own, so that it neither reads nor leaves a run."""
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("DARTS_LIB_RUNS", str(root))
    return root


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put torch's default type and thread count back after each test, and close its figures."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def real_data_root() -> Path:
    """Return the folder of the real data sets, for tests marked `real_data`."""
    return DATA


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a `real_data` test whose files are missing, or let it fail if they are promised."""
    marker = item.get_closest_marker("real_data")
    if marker is None:
        return
    if not marker.args:
        pytest.fail("real_data must name what the test needs, as in real_data('penn')")
    if missing := [name for name in marker.args if not (DATA / name).exists()]:
        promised = os.environ.get("DARTS_LIB_REQUIRE_DATA", "") not in ("", "0")
        end = pytest.fail if promised else pytest.skip
        end(f"no {', '.join(missing)} in {DATA}; data/README.md says where to get it")
