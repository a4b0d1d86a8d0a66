"""Weights from elsewhere into our networks: names, containers, refusals; and out again as ONNX."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from malicious import Malicious
from torch import Tensor

from darts_lib.data.data_sets import archives
from darts_lib.data.images import load_images
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import DOWNLOADED, SHAPES
from darts_lib.formats.mmrazor_names import as_main, mmrazor_names
from darts_lib.formats.network_files import load_network
from darts_lib.formats.onnx_files import export_onnx
from darts_lib.formats.weight_files import save_weights
from darts_lib.genotype import PUBLISHED
from darts_lib.imagenet_network import ImageNetNetwork
from darts_lib.network import CellStack, Network
from darts_lib.relaxation import Supernet
from darts_lib.retrain import RetrainConfig, retrain
from darts_lib.tools.checkpoints import main

V2, ALIAS, RAZOR = (PUBLISHED[n] for n in ("DARTS_V2", "MMRAZOR_ALIAS", "MMRAZOR_9732"))
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
State = dict[str, Tensor]


def randomised(net: CellStack) -> CellStack:
    """Give every weight and statistic a value of its own, so that no two can be mixed up."""
    torch.manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return net.eval()


def small(**given: Any) -> Network:
    net = randomised(Network(V2, 4, 3, 10, 3, **{"auxiliary": True, **given}))
    assert isinstance(net, Network)
    return net


def assert_same_network(loaded: CellStack, net: CellStack, size: int = 16) -> None:
    images = torch.randn(2, 3, size, size)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images)[0], net(images)[0])


# The original's files ---------------------------------------------------------------------------

CONTAINERS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "checkpoint": lambda state: {"epoch": 3, "state_dict": state, "best_acc_top1": 0.9},
    "torch 0.3": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("auxiliary", [True, False])
def test_the_originals_cifar_weights(container: str, auxiliary: bool, tmp_path: Path) -> None:
    net = small(auxiliary=auxiliary)
    torch.save(CONTAINERS[container](net.state_dict()), tmp_path / "weights.pt")
    loaded, cell = load_network(tmp_path / "weights.pt", V2)
    assert cell == V2
    assert_same_network(loaded, net)


def test_the_originals_imagenet_weights(tmp_path: Path) -> None:
    net = randomised(ImageNetNetwork(V2, 8, 3, 7, auxiliary=True))
    content = {"epoch": 1, "state_dict": net.state_dict(), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "model.pth.tar")
    loaded, _ = load_network(tmp_path / "model.pth.tar", V2)
    assert isinstance(loaded, ImageNetNetwork)
    assert_same_network(loaded, net, 64)


def test_an_old_file_format_of_torch_is_read(tmp_path: Path) -> None:
    net = small()
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same_network(load_network(tmp_path / "old.pt", V2)[0], net)


# MMRazor's --------------------------------------------------------------------------------------


def to_v010(name: str) -> str:
    edges = name.replace(".route._candidates.", ".edges.choices.")
    return "architecture.model." + edges.replace("._candidates.", ".0.choices.")


LAYOUTS: dict[str, Callable[[str], str]] = {
    "main": lambda name: name,
    "main, checkpoint": lambda name: f"architecture.{name}",
    "v0.1.0": to_v010,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", [RAZOR, ALIAS], ids=["97.32", "alias"])
def test_mmrazors_weights(layout: str, cell: Any, tmp_path: Path) -> None:
    net = randomised(Network(cell, 4, 3, 10, 3, auxiliary=True, pool_norm=True))
    names = mmrazor_names(net.state_dict(), cell, 3)
    assert all(as_main(LAYOUTS[layout](name)) == name for name in names.values())
    state = {LAYOUTS[layout](names[name]): value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 600}}, tmp_path / "subnet.pth")
    loaded, _ = load_network(tmp_path / "subnet.pth", cell)
    assert_same_network(loaded, net)


@pytest.mark.parametrize(
    ("cell", "ours", "theirs"), [(V2, 1650, 1700), (RAZOR, 1314, 1354)], ids=["V2", "97.32"]
)
def test_the_published_numbers_of_names(cell: Any, ours: int, theirs: int) -> None:
    with torch.device("meta"):
        plain = Network(cell, auxiliary=True).state_dict()
        pooled = Network(cell, auxiliary=True, pool_norm=True).state_dict()
    assert (len(plain), len(pooled)) == (ours, theirs)
    assert len(set(mmrazor_names(pooled, cell, 20).values())) == theirs


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no list of the published names here")
def test_every_name_and_shape_is_the_published_one() -> None:
    keys = json.loads((REFERENCE / "darts_v2_state_keys.json").read_text())
    pairs = json.loads((REFERENCE / "darts_v2_key_map.json").read_text())["quark0_to_mmrazor"]
    with torch.device("meta"):
        plain = Network(V2, auxiliary=True).state_dict()
        pooled = Network(ALIAS, auxiliary=True, pool_norm=True).state_dict()
    assert {name: list(value.shape) for name, value in plain.items()} == keys["quark0"]
    assert mmrazor_names(plain, V2, 20) == pairs
    razor = mmrazor_names(pooled, ALIAS, 20)
    found = {razor[name]: list(value.shape) for name, value in pooled.items()}
    assert found == keys["mmrazor"]


# Refusals ---------------------------------------------------------------------------------------


def refusal(path: Path, *arguments: Any, **expected: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_network(path, *arguments, **expected)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_of_another_cell_are_refused_naming_keys_and_shapes(tmp_path: Path) -> None:
    state = small().state_dict()
    state["classifier.bias"] = torch.zeros(11)
    del state["cells.0.preprocess0.op.1.weight"]
    state["cells.0.strange"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pt")
    message = refusal(tmp_path / "weights.pt", V2)
    assert "1 missing (cells.0.preprocess0.op.1.weight)" in message
    assert "1 unknown (cells.0.strange)" in message
    assert "classifier.bias (11,) for (10,)" in message
    many = refusal(tmp_path / "weights.pt", RAZOR)
    assert "more)" in many
    assert len(many) < 2000


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"channels": 36}, "has channels=4, not 36"),
        ({"layers": 20}, "has layers=3, not 20"),
        ({"auxiliary": True}, "has auxiliary=False, not True"),
    ],
)
def test_a_file_of_another_shape_than_asked_for(
    expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    torch.save(small(auxiliary=False).state_dict(), tmp_path / "weights.pt")
    assert words in refusal(tmp_path / "weights.pt", V2, **expected)


def test_a_supernet_is_no_derived_network(tmp_path: Path) -> None:
    torch.save(Supernet(4, 3, 2).state_dict(), tmp_path / "super.pt")
    assert "does not fit the network" in refusal(tmp_path / "super.pt", V2)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    assert "holds no derived network" in refusal(tmp_path / "other.pt", V2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds list, not a dict"),
        ({}, "holds dict, not a dict of weights"),
        ({"epoch": 3}, "'epoch' is no tensor"),
    ],
)
def test_a_file_without_weights(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert words in refusal(tmp_path / "weights.pt", V2)


def test_the_number_of_cells_is_not_taken_from_a_name_alone(tmp_path: Path) -> None:
    state = {**small().state_dict(), "cells.999999999.x": torch.zeros(1)}
    torch.save(state, tmp_path / "weights.pt")
    assert "names cell 999999999 but holds" in refusal(tmp_path / "weights.pt", V2)


def test_a_file_that_would_run_code_does_not(tmp_path: Path) -> None:
    mark = tmp_path / "was here"
    torch.save({"stem.0.weight": Malicious(mark)}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Malicious(mark)))
    torch.save(small(), tmp_path / "module.pt")  # a whole module
    for name in ("new.pt", "old.pt", "module.pt"):
        assert "not a file of weights alone" in refusal(tmp_path / name, V2)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.999])
def test_a_file_cut_short_is_refused(name: str, cut: float, tmp_path: Path) -> None:
    net, path = small(), tmp_path / name
    if path.suffix == ".pt":
        torch.save(net.state_dict(), path)
    else:
        save_weights(net, V2, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut if cut >= 1 else cut * len(content))])
    assert name in refusal(path, V2)


def test_a_missing_file_and_a_missing_genotype(tmp_path: Path) -> None:
    assert "is not there" in refusal(tmp_path / "none.pt", V2)
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    assert "carries no genotype" in refusal(tmp_path / "weights.pt")


# Out again --------------------------------------------------------------------------------------


def test_our_file_carries_its_genotype(tmp_path: Path) -> None:
    net = randomised(Network(RAZOR, 4, 3, pool_norm=True))
    save_weights(net, RAZOR, tmp_path / "weights.safetensors")
    loaded, cell = load_network(tmp_path / "weights.safetensors")
    assert cell == RAZOR
    assert_same_network(loaded, net)


def test_the_command_line_tests_what_retraining_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"channels": 4, "layers": 2, "epochs": 1, "max_steps": 2}
    run = retrain(RetrainConfig.create(scale="laptop", run_dir=str(tmp_path / "run"), **tiny))
    capsys.readouterr()
    file = str(run.path / "weights.safetensors")
    assert main(["evaluate", file, "--dataset", "digits", "--channels", "4", "--auxiliary"]) == 0
    said = capsys.readouterr().out
    top1, top5 = (100 * (1 - run.figures[name]) for name in ("test_accuracy", "test_top5"))
    assert f"top-1 error {top1:.2f} %, top-5 error {top5:.2f} %" in said
    assert str(V2) in said
    for arguments, words in (
        (["--dataset", "digits", "--layers", "20"], "has layers=2, not 20"),
        (["--dataset", "digits", "--genotype", "DARTS_V3"], "did you mean 'DARTS_V2'?"),
    ):
        assert main(["evaluate", file, *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert words in shown.err
        assert shown.err.count("\n") == 1


def test_a_data_set_of_other_classes_or_channels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(small(), V2, tmp_path / "weights.safetensors")
    assert main(["evaluate", str(tmp_path / "weights.safetensors"), "--dataset", "digits"]) == 2
    assert "10 classes apart in images of 3 channels, but digits has 10 and 1" in (
        capsys.readouterr().err
    )


def test_a_run_folder_is_tested_on_its_own_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"channels": 2, "layers": 2, "epochs": 1, "max_steps": 1}
    run = retrain(RetrainConfig.create(scale="laptop", run_dir=str(tmp_path / "run"), **tiny))
    for named in (run.path, run.path / "weights.safetensors"):
        capsys.readouterr()
        assert main(["evaluate", str(named)]) == 0
        said = capsys.readouterr().out
        assert "testing on digits; --dataset names another" in said
        assert f"top-1 error {100 * (1 - run.test_accuracy):.2f} %" in said


def test_weights_that_cannot_fit_are_refused_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("darts_lib.tools.checkpoints.load_images", None)
    file = tmp_path / "weights.safetensors"
    save_weights(randomised(Network(V2, 4, 3, 10, 1)), V2, file)
    cases = {
        "in images of 1 channel, but cifar10 has 10 and 3": [],
        "10 classes apart in images of 1 channel, but cifar100": ["--dataset", "cifar100"],
        "name it with --data-root FOLDER": ["--dataset", "folder"],
        "--data-root /no/such/folder is not there": ["--data", "/no/such/folder"],
    }
    for words, arguments in cases.items():
        assert main(["evaluate", str(file), *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("dataset", SHAPES)
def test_the_shapes_of_the_data_sets(dataset: str, real_data_root: Path) -> None:
    if dataset in DOWNLOADED and any(
        archive.faults(real_data_root) for archive in archives(dataset)
    ):
        pytest.skip(f"no {dataset} in {real_data_root}")
    images = load_images(dataset, real_data_root, "test")
    assert SHAPES[dataset] == (len(images.classes), images.channels)


@pytest.mark.parametrize("name", ["cell.txt", "genotype.json", "cell.yaml"])
def test_a_cell_in_place_of_weights_is_told_apart(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(str(V2))
    assert "is for a cell or for settings. Give the weights" in refusal(tmp_path / name)


def test_a_folder_without_weights_and_torchs_advice(tmp_path: Path) -> None:
    assert "weights.safetensors is not there" in refusal(tmp_path)
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "mark")))
    message = refusal(tmp_path / "weights.pt")
    assert "it holds more than plain data" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("target", ["no/net.onnx", "folder"])
def test_an_export_that_cannot_be_written_is_refused_before_the_work(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ["export", str(tmp_path / "not read.pt"), "--onnx", str(tmp_path / target)]
    assert main(arguments) == 2
    assert f"{tmp_path / target} cannot be written: " in capsys.readouterr().err


@pytest.mark.slow
def test_onnx_computes_the_same_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = small()
    save_weights(net, V2, tmp_path / "weights.safetensors")
    out = tmp_path / "net.onnx"
    weights = str(tmp_path / "weights.safetensors")
    assert main(["export", weights, "--onnx", str(out), "--size", "16"]) == 0
    session = onnxruntime.InferenceSession(str(out))
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = net(images)[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_export_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(SettingsError, match=r"pip install 'darts-lib\[onnx\]'"):
        export_onnx(small(), tmp_path / "net.onnx", (3, 16, 16))
