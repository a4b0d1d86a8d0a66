"""Weights in any wrapping, files that are not what their names say, tables that are no numbers."""

import io
import json
import math
import os
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_tools import Printed, refusal_of
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor, nn

from darts_lib.data.pixels import opened
from darts_lib.data.text import load_text
from darts_lib.engine.files import DamagedFileError, kind_of_file, unpack
from darts_lib.fast.fused import FusedSupernet
from darts_lib.formats.network_files import load_network, mmrazor_names
from darts_lib.formats.weight_files import save_weights
from darts_lib.genotype import PUBLISHED
from darts_lib.network import Network
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.network import derived_network
from darts_lib.recurrent.retrain import load_network as load_recurrent
from darts_lib.relaxation import Supernet
from darts_lib.tools.checkpoints import main

V2, RAZOR = PUBLISHED["DARTS_V2"], PUBLISHED["MMRAZOR_9732"]
State = dict[str, Tensor]
torch.manual_seed(0)
NET, WIDE = Network(V2, 2, 3, 10, 1), Network(V2, 4, 3, 10, 1)
STATE: State = NET.state_dict()


def before(prefix: str, state: State = STATE) -> State:
    return {prefix + name: value for name, value in state.items()}


def under(part: str) -> State:
    return {k.removeprefix(part): v for k, v in STATE.items() if k.startswith(part)}


def same(path: Path, expected: State = STATE) -> bool:
    state = load_network(path, V2)[0].state_dict()
    return all(torch.equal(state[name], value) for name, value in expected.items())


PREFIXES = ("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.net.", "backbone.", "1.")
KEYS = ("model", "net", "model_state_dict", "weights", "ema", "any name")
WRAPPED = [
    *(before(prefix) for prefix in PREFIXES),
    *({"epoch": 3, key: STATE, "optimizer": {"state": {0: {"x": torch.ones(3)}}}} for key in KEYS),
    {"checkpoint": [1, {"model": before("module.")}]},
    {"n_averaged": torch.tensor(3), "criterion.weight": torch.ones(10), **before("model.module.")},
    {k.replace("cells.1.", "cells.1._orig_mod."): v for k, v in STATE.items()},
    {part: under(f"{part}.") for part in ("stem", "cells", "classifier")},
    {**STATE, "epoch": 3},
    {"state_dict": STATE, "args": Namespace(lr=0.1), "best": np.float64(0.9), "n": np.int64(2)},
    {k: v.double() if v.is_floating_point() else v for k, v in STATE.items()},
]  # fmt: skip


@pytest.mark.parametrize("content", WRAPPED)
def test_the_same_weights_in_any_wrapping(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.safetensors")  # whatever its name says
    assert same(tmp_path / "net.safetensors")


def test_wrapped_safetensors_mmrazors_and_language_models(tmp_path: Path) -> None:
    save_file(before("_orig_mod.module."), tmp_path / "net.pt", {"format": "pt"})
    assert same(tmp_path / "net.pt")
    razor = Network(RAZOR, 2, 3, 10, 1, pool_norm=True)
    names = mmrazor_names(razor.state_dict(), RAZOR, 3)
    theirs = {names[name]: value for name, value in razor.state_dict().items()}
    torch.save({"model": before("_orig_mod.architecture.", theirs)}, tmp_path / "razor.pth")
    loaded = load_network(tmp_path / "razor.pth", RAZOR)[0].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in razor.state_dict().items())
    text = derived_network(RECURRENT["DARTS_V2"], 6, 11)
    save_weights(torch.compile(text), RECURRENT["DARTS_V2"], tmp_path / "weights.safetensors")  # type: ignore[arg-type]
    cell = {"genotype": RECURRENT["DARTS_V2"].to_dict()}
    (tmp_path / "result.json").write_text(json.dumps(cell))
    assert torch.equal(load_recurrent(tmp_path).encoder.weight, text.encoder.weight)
    refusal_of(lambda: load_network(tmp_path, V2), "holds a language model")
    huge = {f"{part}.weight": torch.zeros(1, 10**6) for part in ("encoder", "decoder")}
    (tmp_path / "weights.safetensors").write_bytes(save(huge))  # 4 TB for such a width
    refusal_of(lambda: load_recurrent(tmp_path), "10 missing (rnns.0._W0")


def test_of_several_networks_that_fits_or_is_named(tmp_path: Path, capsys: Printed) -> None:
    file, other = tmp_path / "net.pt", {k: v.clone() for k, v in STATE.items()}
    other["classifier.bias"] += 1
    torch.save({"student": STATE, "teacher": WIDE.state_dict()}, file)
    assert load_network(file, V2, channels=4)[0].classifier.in_features == 64
    torch.save({"model": STATE, "ema": other}, file)
    refusal_of(lambda: load_network(file, V2), "2 networks that fit (model, ema): name one, as")
    assert same(Path(f"{file}:ema"), other)
    torch.save({**STATE, **before("ema.", other)}, tmp_path / "flat.pt")
    assert same(tmp_path / "flat.pt:ema", other)
    refusal_of(lambda: load_network(Path(f"{file}:x"), V2), "no network in 'x', but in model, ema")
    torch.save({"state_dict_ema": other, "state_dict": STATE}, file)
    assert same(file)
    assert "holds state_dict_ema, state_dict: state_dict is read" in capsys.readouterr().out


def test_a_compiled_or_wrapped_network_is_written_with_its_own_names(tmp_path: Path) -> None:
    net = Network(V2, 2, 3, 10, 1)
    net.load_state_dict(STATE)
    save_weights(NET, V2, tmp_path / "plain")
    net.cells[1] = torch.compile(net.cells[1])  # type: ignore[assignment]
    for wrapped in (torch.compile(NET), nn.DataParallel(net)):
        save_weights(wrapped, V2, tmp_path / "wrapped")  # type: ignore[arg-type]
        assert (tmp_path / "wrapped").read_bytes() == (tmp_path / "plain").read_bytes()


W, B, STEM, HEAD = "cells.0.preprocess0.op.1.weight", "classifier.bias", *[*STATE][:1], "classifier"


def changed(name: str, value: Tensor) -> State:
    return {**STATE, name: value}


def theirs(name: str) -> str:
    return name.replace(".edges.", "._ops.").replace(".operations.", "._ops.")


SEARCH = Supernet(2, 3, 4, in_channels=1).state_dict()
ORIGINAL = {theirs(name): value for name, value in SEARCH.items()}
REFUSED = [
    (changed(B, torch.full((10,), math.nan)), f"{B} has 10 of 10 values NaN or infinite"),
    (changed(B, torch.full((10,), 1e300, dtype=torch.double)), "10 of 10 values NaN or infinite"),
    (changed("stem.1.running_var", -torch.ones(6)), "has a negative variance"),
    (changed(STEM, torch.zeros(1).expand(3_000_000, 1, 3, 3)), "and the file no such values"),
    (changed(STEM, torch.zeros(0, 1, 3, 3)), "has the shape (0, 1, 3, 3)"),
    (changed(W, STATE[W].to("meta")), f"{W} has the shape (2, 6, 1, 1), and the file no"),
    (changed(W, STATE[W].to_sparse()), "is torch.float32, torch.sparse_coo; save it"),
    (changed(W, STATE[W].to(torch.complex64)), "is torch.complex64"),
    (changed(W, STATE[W].int()), "is torch.int32"),
    (changed(f"{HEAD}.weight", torch.tensor(1.0)), "its classifier ()"),
    (changed(STEM, torch.zeros(())), "its stem is ()"),
    (changed(f"cells.{'9' * 5000}.preprocess0.x", torch.ones(1)), "its cells are 0, 1, 2, '999"),
    (changed("odd\nname", torch.ones(1)), r"1 unknown ('odd\nname')"),
    (before("module.", ORIGINAL), "of a search, not of a derived network; the original does not"),
    ({**ORIGINAL, "alphas_normal": torch.ones(14, 8)}, "beside them (alphas_normal)"),
    ({"state": FusedSupernet(2, 3, 4).state_dict()}, "of a derived network; load_search(FOLDER)"),
    ({"a": {"conv1.weight": torch.ones(3)}}, "no network of DARTS, but a dict (a.conv1.weight)"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_no_network_is_refused_in_a_line(
    content: State, words: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "net.pt")
    refusal_of(lambda: load_network(tmp_path / "net.pt", V2), words)


def test_weights_too_large_to_compute_with_have_no_error_rate(tmp_path: Path) -> None:
    save_weights(NET, V2, tmp_path / "net.pt")
    large = {k: v * 1e30 if v.dim() == 4 else v for k, v in STATE.items()}
    torch.save({**large, "classifier.weight": STATE["classifier.weight"] * 1e38}, tmp_path / "x.pt")
    call = ["evaluate", str(tmp_path / "x.pt"), "--genotype", "DARTS_V2", "--dataset", "digits"]
    refusal_of(lambda: main(call), "the logits of")


def written(write: Callable[[Any], object]) -> bytes:
    write(buffer := io.BytesIO())
    return buffer.getvalue()


def zipped(*names: str, content: bytes = b"x") -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
KINDS = [
    (POINTER, "a Git LFS pointer of 63 bytes: run git lfs pull"),
    (b"\n <!DOCTYPE html><html>", "a web page"),
    (b"\xef\xbb\xbf<HTML>", "a web page"),
    (b"/annex/objects/MD5-s3--1", "a git-annex pointer of 24 bytes"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x08\x08\x12\x07pytorch", "an ONNX file"),
    (b"%PDF-1.4", "a PDF"),
    (b"\x1f\x8b\x08", "a packed archive"),
    (written(lambda file: np.save(file, np.ones(3))), "a NumPy array"),
    (written(lambda file: Image.new("L", (2, 2)).save(file, "webp")), "a picture"),
    (pickle.dumps([1]), "a pickle that torch did not write"),
    (zipped("a.txt"), "a zip archive, but none of torch.save: it holds ['a.txt']"),
    (zipped("a/data.pkl", "a/constants.pkl"), "a TorchScript program"),
    (zipped("a/data.pkl", content=bytes(9_000_000)), "would take 9,000,000 bytes of memory"),
    (zipped("a/data.pkl")[:60], "cut short or damaged"),
    (save({"x": torch.ones(1)}), "a safetensors file"),
    (written(lambda file: torch.save({}, file)), "a file of torch.save"),
    (bytes(2000), "nothing but zeros"),
    ("naïve".encode("utf-16"), "a text that begins with 'naïve'"),
    (b'{"a": 1}', "a text that begins with"),
    (b"", "empty"),
    (b"\x01\x02\x03", ""),
]  # fmt: skip


@pytest.mark.parametrize(("content", "kind"), KINDS, ids=[kind for _, kind in KINDS])
def test_a_file_is_known_by_its_first_bytes(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    told = kind_of_file(tmp_path / "file.pt")
    assert kind in told
    assert bool(kind) == bool(told)
    if "safetensors" not in kind and "of torch.save" not in kind:
        refusal_of(lambda: load_network(tmp_path / "file.pt", V2), f"is {told or 'of no known'}")


def test_every_reader_tells_a_pointer_and_no_pipe_is_opened(tmp_path: Path) -> None:
    for name in ("train.txt", "valid.txt", "test.txt", "a.png", "checkpoint.pt"):
        (tmp_path / name).write_bytes(POINTER)
    words = "a Git LFS pointer of 63 bytes"
    refusal_of(lambda: load_text("folder", tmp_path), words)
    refusal_of(opened(tmp_path / "a.png").__enter__, words)
    with pytest.raises(DamagedFileError, match=words):
        unpack(tmp_path / "checkpoint.pt")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (
        ("pipe", "a pipe, a socket or a device"),
        ("none", "not there"),
        ("", "a folder"),
    ):
        assert kind in kind_of_file(tmp_path / name)
    refusal_of(lambda: load_network(tmp_path / "pipe", V2), "is a pipe, a socket or a device")
