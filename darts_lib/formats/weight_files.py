"""Files of weights, read safely: the original's, MMRazor's and our own; written with their cell.

Only tensors and plain data are ever read from a file (`weights_only`), so a file cannot run code.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from darts_lib.engine.files import write_whole
from darts_lib.engine.refusals import SettingsError
from darts_lib.genotype import BaseGenotype, Genotype

WEIGHTS = "weights.safetensors"
"""What the network of a finished retraining is called in its run folder."""

TEXTS = (".txt", ".json", ".yaml", ".yml", ".jsonl")
"""Files that people name in place of the weights beside them."""

SHOWN = 5  # names of each kind in a message; a network has over a thousand


class WeightFile(NamedTuple):
    """The tensors of a file by name, and the genotype if the file carries one."""

    tensors: dict[str, Tensor]
    genotype: Genotype | None = None


def read_weights(path: Path) -> WeightFile:
    """Read a `.safetensors` file, or a `torch.save` file: a bare state dict or a checkpoint.

    A folder stands for the `weights.safetensors` in it.
    Raises SettingsError for a file that is missing, damaged, holds code or holds no weights.
    """
    if path.is_dir():
        path = path / WEIGHTS  # of a retraining's run folder
    if not path.is_file():
        raise SettingsError(
            f"{path} is not there; give a file of weights, or the folder of a finished retraining."
        )
    if path.suffix == ".safetensors":
        tensors, text = _read_safetensors(path)
        return WeightFile(tensors, Genotype.from_text(text) if text else None)
    if path.suffix in TEXTS:
        raise SettingsError(
            f"{path} is no file of weights: {path.suffix} is for a cell or for settings. Give the "
            "weights, and the cell as the genotype."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any reader's complaint means the same: no file of weights
        reason = str(error).strip().partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # not torch's advice, which is to trust it
            reason = "it holds more than plain data, or is cut short"
        raise SettingsError(
            f"{path} is not a file of weights alone ({reason}); whole pickled modules are not read,"
            " since they can run code: save its state_dict()."
        ) from error
    return WeightFile(_tensors(path, content))


def read_run(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a finished retraining; SettingsError where there are none."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise SettingsError(f"{folder} holds no {WEIGHTS}; finish its retraining first.")
    return _read_safetensors(file)[0]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors, and the text of the genotype, which is empty if there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("genotype", "")
            return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SettingsError(f"{path} is damaged: {error}; write or download it again.") from error


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict itself, which a checkpoint holds under `state_dict`."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise SettingsError(f"{path} holds {type(content).__name__}, not a dict of weights.")
    if odd := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise SettingsError(f"{path}: {odd[0]!r} is no tensor; save the module's state_dict().")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Put weights into a network; say which names and shapes differ if they do not fit.

    Batch normalisation's counters, which files of torch 0.3 lack and nothing here depends on, are
    taken as zero.
    """
    wanted = net.state_dict()
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    given = {**{name: torch.zeros_like(wanted[name]) for name in counters}, **tensors}
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in given and given[name].shape != value.shape
        ],
    }
    told = []
    for kind, names in problems.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        told += [f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})"] if names else []
    if told:
        raise SettingsError(
            f"{source} does not fit the network: {'; '.join(told)}. Is it of this genotype, with "
            "so many channels and layers, with or without the auxiliary head?"
        )
    net.load_state_dict(given)


def save_weights(net: nn.Module, genotype: BaseGenotype, path: Path) -> None:
    """Write a network as safetensors with its genotype, the one entry of the metadata.

    safetensors writes several entries in any order; with one, the same weights give the same bytes.
    A language model's tied matrix stands there twice, as in the original's files.
    """
    copies = ((name, value.cpu().clone()) for name, value in net.state_dict().items())
    tensors = {name: value.contiguous() for name, value in copies}
    write_whole(path, save(tensors, {"genotype": str(genotype)}))
