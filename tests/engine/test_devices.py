"""The device that a name means, and what is said of the machine."""

import shutil
from typing import Any

import pytest
import torch

from darts_lib.engine.devices import POLICY, machine, resolve_device
from darts_lib.engine.opening import opened
from darts_lib.engine.refusals import SettingsError
from darts_lib.search import SearchConfig


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1"])
def test_an_absent_device_is_refused_in_one_line(name: str) -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingsError, match=f"device '{name}' is not there; use 'auto' or 'cpu'"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "GPU", "", "cuda:x", "cpu:x", "xpu"])
def test_an_unknown_device_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(SettingsError, match=f"device '{name}' is not known") as caught:
        resolve_device(name)
    assert "use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'" in str(caught.value)
    assert ("'cuda' is an NVIDIA GPU" in str(caught.value)) == (name.lower() == "gpu")


def test_a_present_device_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SettingsError, match="cuda:2"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")


def test_a_machine_names_how_threads_wait_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    assert set(machine()) == {"device", "threads", "torch", "python"}
    monkeypatch.setenv(POLICY, "PASSIVE")
    assert machine()["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(("cuda", "card", "device", "told"), [
    (None, True, "auto", True),
    ("13.0", True, "auto", False),
    (None, False, "auto", False),
    (None, True, "cpu", False),
])  # fmt: skip
def test_a_gpu_that_this_torch_cannot_use_is_told(
    cuda: str | None, card: bool, device: str, told: bool, monkeypatch: Any, capsys: Any
) -> None:
    """Of NRCan/geo-deep-learning#490: a CPU build was installed, and nobody said so."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if card else None)
    with opened(SearchConfig.create(scale="laptop", device=device)):
        pass
    said = capsys.readouterr().out
    assert ("this machine has an NVIDIA GPU" in said) == told
    assert said.count("\n") == told
