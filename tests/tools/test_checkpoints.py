"""Weights from elsewhere into our networks: names, containers, refusals; and out again as ONNX."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed, refusal_of
from safetensors.torch import save_file

from darts_lib.data.data_sets import archives
from darts_lib.data.images import load_images
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import DOWNLOADED, SHAPES
from darts_lib.formats.network_files import as_main, load_network, mmrazor_names
from darts_lib.formats.onnx_files import export_onnx
from darts_lib.formats.weight_files import save_weights
from darts_lib.genotype import PUBLISHED, Genotype, GenotypeError
from darts_lib.network import CellStack, ImageNetNetwork, Network
from darts_lib.retrain import RetrainConfig, RetrainResult, retrain
from darts_lib.tools.checkpoints import main

V2, ALIAS, RAZOR = (PUBLISHED[n] for n in ("DARTS_V2", "MMRAZOR_ALIAS", "MMRAZOR_9732"))
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def randomised(net: CellStack) -> CellStack:
    """Give every weight and statistic a value of its own, so that no two can be mixed up."""
    torch.manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return net.eval()


def small(**given: Any) -> CellStack:
    return randomised(Network(V2, 4, 3, 10, 3, **{"auxiliary": True, **given}))


def assert_same_network(loaded: CellStack, net: CellStack, size: int = 16) -> None:
    images = torch.randn(2, 3, size, size)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images)[0], net(images)[0])


@pytest.mark.parametrize(("contained", "new"), [
    (lambda state: state, False),  # in torch's format before 1.6
    (lambda state: {"epoch": 3, "state_dict": state, "best_acc_top1": 0.9}, True),
    (lambda state: {k: v for k, v in state.items() if "num_batches" not in k}, True),  # torch 0.3
])  # fmt: skip
def test_the_originals_weights(contained: Callable[..., object], new: bool, tmp_path: Path) -> None:
    for net in (small(auxiliary=new), randomised(ImageNetNetwork(V2, 8, 3, 7, auxiliary=True))):
        content = contained(net.state_dict())
        torch.save(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=new)
        loaded, cell = load_network(tmp_path / "model.pth.tar", V2)
        assert (type(loaded), cell) == (type(net), V2)
        assert_same_network(loaded, net, 64)


def older(name: str) -> str:
    """Return a name of MMRazor's main as v0.1.0 has it."""
    name = name.replace(".route._candidates.", ".edges.choices.")
    return f"architecture.model.{name.replace('._candidates.', '.0.choices.')}"


@pytest.mark.parametrize("layout", [lambda name: name, lambda name: f"architecture.{name}", older])
@pytest.mark.parametrize("cell", [RAZOR, ALIAS], ids=["97.32", "alias"])
def test_mmrazors_weights(layout: Callable[[str], str], cell: Any, tmp_path: Path) -> None:
    net = randomised(Network(cell, 4, 3, 10, 3, auxiliary=True, pool_norm=True))
    names = mmrazor_names(net.state_dict(), cell, 3)
    assert all(as_main(layout(name)).endswith(name) for name in names.values())
    state = {layout(names[name]): value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 600}}, tmp_path / "subnet.pth")
    loaded, _ = load_network(tmp_path / "subnet.pth", cell)
    assert_same_network(loaded, net)


@pytest.mark.parametrize(("cell", "ours", "theirs"), [(V2, 1650, 1700), (RAZOR, 1314, 1354)])
def test_the_published_numbers_of_names(cell: Any, ours: int, theirs: int) -> None:
    with torch.device("meta"):
        plain, pooled = (Network(cell, auxiliary=True, pool_norm=norm) for norm in (False, True))
    names = mmrazor_names(pooled.state_dict(), cell, 20)
    assert (len(plain.state_dict()), len(names), len({*names.values()})) == (ours, theirs, theirs)


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
    assert {razor[n]: list(value.shape) for n, value in pooled.items()} == keys["mmrazor"]


def refusal(path: Path, cell: Genotype | None, *words: str, **expected: Any) -> None:
    refusal_of(lambda: load_network(path, cell, **expected), *words)


def test_weights_of_another_cell_or_shape_are_refused_by_keys_and_shapes(tmp_path: Path) -> None:
    file, state = tmp_path / "weights.pt", small().state_dict()
    torch.save(small(auxiliary=False).state_dict(), file)
    for name, there, asked in (("channels", 4, 36), ("layers", 3, 20), ("auxiliary", False, True)):
        refusal(file, V2, f"has {name}={there}, not {asked}", **{name: asked})
    state |= {"classifier.bias": torch.zeros(11), "cells.0.strange": torch.zeros(1)}
    del state["cells.0.preprocess0.op.1.weight"]
    torch.save(state, file)
    missing, unknown = "1 missing (cells.0.preprocess0.op.1.weight)", "1 unknown (cells.0.strange)"
    refusal(file, V2, missing, unknown, "classifier.bias (11,) for (10,)")
    refusal(file, RAZOR, "more)")


def test_a_file_without_weights_of_a_derived_network(tmp_path: Path) -> None:
    far = {**small().state_dict(), "cells.999999999.x": torch.zeros(1)}
    for content, words in (
        ([1, 2], "holds no weights, but a list"),
        (small(), "not a file of weights alone (it holds more than plain data"),  # a whole module
        ({"epoch": 3}, "holds no weights, but a dict (epoch)"),
        (far, "1 unknown (cells.999999999.x)"),  # no number of cells is taken from a name alone
    ):
        torch.save(content, tmp_path / "weights.pt")
        refusal(tmp_path / "weights.pt", V2, words)
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    refusal(tmp_path / "weights.pt", None, "carries no genotype")
    refusal(tmp_path / "none.pt", V2, "is not there")
    refusal(tmp_path, None, "weights.safetensors is not there")
    for name in ("cell.txt", "genotype.json", "cell.yaml"):
        (tmp_path / name).write_text(str(V2))
        refusal(tmp_path / name, None, "is a text that begins with")


def test_a_file_cut_short_is_refused_and_a_whole_one_carries_its_genotype(tmp_path: Path) -> None:
    net = randomised(Network(RAZOR, 4, 3, pool_norm=True))
    ours, theirs = tmp_path / "weights.safetensors", tmp_path / "weights.pt"
    save_weights(net, RAZOR, ours)
    torch.save(net.state_dict(), theirs)
    loaded, cell = load_network(ours)
    assert cell == RAZOR
    assert_same_network(loaded, net)
    for path in (ours, theirs):
        content = path.read_bytes()
        for length in (0, 10, len(content) // 2, int(0.999 * len(content))):
            path.write_bytes(content[:length])
            refusal(path, V2, path.name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RetrainResult:
    tiny = {"channels": 4, "layers": 2, "epochs": 1, "max_steps": 1}
    folder = str(tmp_path_factory.mktemp("runs") / "run")
    return retrain(RetrainConfig.create(scale="laptop", run_dir=folder, **tiny))


def refused(*arguments: str) -> str:
    """Return the line that `run_command` tells of a command that is refused."""
    return refusal_of(lambda: main(list(arguments)))


def test_the_command_line_tests_what_retraining_saved(run: RetrainResult, capsys: Printed) -> None:
    file = run.path / "weights.safetensors"
    top1, top5 = (100 * (1 - run.figures[name]) for name in ("test_accuracy", "test_top5"))
    settings = ("--dataset", "digits", "--channels", "4", "--auxiliary")
    for named, *given in ((run.path,), (file,), (file, *settings)):
        capsys.readouterr()
        main(["evaluate", str(named), *given])
        said = capsys.readouterr().out
        assert ("testing on digits; --dataset names another" in said) == (not given)
        assert f"top-1 error {top1:.2f} %, top-5 error {top5:.2f} %" in said
        assert str(V2) in said
    on_digits = ("evaluate", str(file), "--dataset", "digits")
    assert "has layers=2, not 20" in refused(*on_digits, "--layers", "20")
    with pytest.raises(GenotypeError, match="did you mean 'DARTS_V2'?"):
        main([*on_digits, "--genotype", "DARTS_V3"])


@pytest.mark.parametrize(("entry", "words"), [
    ("[1]", "hold no genotype"),
    ("[" * 100_000, "is damaged: "),
    ({"classes": ["a"]}, "tells of 1 classes and 3 channels, its weights of 10 and 3"),
    ({"size": [8, 10**9]}, "tells of impossible data: size.1=1000000000: must be at most 10000"),
    ({"std": [0, 1, 1]}, "std.0=0: must be more than 0"),
    ({"mean": [0.5]}, "a figure for each of 3 channels"),
])  # fmt: skip
def test_weights_that_tell_of_impossible_data_are_refused(
    entry: Any, words: str, tmp_path: Path
) -> None:
    data = {"classes": list("abcdefghij"), "channels": 3, "size": [8, 8]}
    data |= {"mean": [0, 0, 0], "std": [1, 1, 1], **(entry if isinstance(entry, dict) else {})}
    text = json.dumps({"genotype": str(V2), "data": data}) if isinstance(entry, dict) else entry
    save_file(small().state_dict(), tmp_path / "net.safetensors", {"darts_lib": text})
    assert words in refused("evaluate", str(tmp_path / "net.safetensors"))


@pytest.mark.parametrize(("channels", "options", "words"), [
    (1, "", "in images of 1 channel, but cifar10 has 10 and 3"),
    (1, "--dataset cifar100", "10 classes apart in images of 1 channel, but cifar100"),
    (3, "--dataset digits", "apart in images of 3 channels, but digits has 10 and 1"),
    (1, "--dataset folder", "name it with --data-root FOLDER"),
    (1, "--data /no/such/folder", "--data-root /no/such/folder is not there"),
])  # fmt: skip
def test_unfit_weights_are_refused(
    channels: int, options: str, words: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("darts_lib.tools.checkpoints.load_images", None)
    save_weights(Network(V2, 4, 3, 10, channels), V2, tmp_path / "net.safetensors")
    assert words in refused("evaluate", f"{tmp_path}/net.safetensors", *options.split())


@pytest.mark.parametrize("dataset", SHAPES)
def test_the_shapes_of_the_data_sets(dataset: str, real_data_root: Path) -> None:
    if dataset in DOWNLOADED and any(each.faults(real_data_root) for each in archives(dataset)):
        pytest.skip(f"no {dataset} in {real_data_root}")
    images = load_images(dataset, real_data_root, "test")
    assert SHAPES[dataset] == (len(images.classes), images.channels)


def test_an_impossible_export_is_told(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "folder").mkdir()
    for target in ("no/net.onnx", "folder"):
        said = refused("export", "not read.pt", "--onnx", str(tmp_path / target))
        assert f"{tmp_path / target} cannot be written: " in said
    save_weights(small(), V2, tmp_path / "w.safetensors")
    for size in ("0", "-3", "10001"):
        out = (str(tmp_path / "w.safetensors"), "--onnx", str(tmp_path / "n.onnx"))
        assert f"--size {size}: it must be 1 to 10,000" in refused("export", *out, "--size", size)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SettingsError, match=r"pip install 'darts-lib\[onnx\]'"):
        export_onnx(small(), tmp_path / "net.onnx", (3, 16, 16))


@pytest.mark.deep
def test_onnx_computes_the_same_logits(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, weights, out = small(), tmp_path / "weights.safetensors", str(tmp_path / "net.onnx")
    save_weights(net, V2, weights)
    main(["export", str(weights), "--onnx", out, "--size", "16"])
    session = onnxruntime.InferenceSession(out)
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16)
        (logits,) = session.run(None, {"images": images.numpy()})
        expected = net(images)[0].detach()
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.deep
def test_onnx_has_the_size_and_the_names_of_the_run_and_is_whole_or_as_before(
    run: RetrainResult, tmp_path: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    onnx, out = pytest.importorskip("onnx"), tmp_path / "net.onnx"
    main(["export", str(run.path), "--onnx", str(out)])
    assert "for pictures of 8x8 pixels" in capsys.readouterr().out
    model = onnx.load(out)
    shape = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    told = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert (shape[1:], told["size"], told["classes"]) == ([1, 8, 8], [8, 8], list("0123456789"))
    assert {"mean", "std", "scale", "genotype"} <= told.keys()
    assert "are divided by 255" in model.doc_string
    before = out.read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("os.replace", full)
    assert "disk is full" in refused("export", str(run.path), "--onnx", str(out))
    assert (out.read_bytes(), list(tmp_path.glob(".*"))) == (before, [])
