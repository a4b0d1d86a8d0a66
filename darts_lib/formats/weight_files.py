"""Files of weights, read safely: the original's, MMRazor's and our own.

Ours have their cell and what the run knew of its data with them, in one entry of the metadata:
safetensors writes several in any order; with one, the same weights give the same bytes.
Only tensors and plain data are ever read from a file (`weights_only`), so a file cannot run code.
"""

import contextlib
import json
import math
import os
import pickle
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from darts_lib.engine.files import SAFETENSORS, TORCH, is_there, kind_of_file, write_whole
from darts_lib.engine.folder import Row, way_back
from darts_lib.engine.opening import stored_run
from darts_lib.engine.refusals import SettingsError, show
from darts_lib.genotype import BaseGenotype, Genotype

WEIGHTS = "weights.safetensors"
"""What the network of a finished retraining is called in its run folder."""

ENTRY = "darts_lib"
"""The one entry of the metadata, JSON of `genotype` and `data`; once it was `genotype` alone."""

SHOWN = 5  # names of each kind in a message; a network has over a thousand

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What parallel, compiled and other wrappers put into names, at their start or inside."""

COUNTER = "num_batches_tracked"  # of batch normalisation: an integer on which nothing depends

LANDMARKS = (
    ("stem.0.weight", "classifier.weight"),
    ("stem0.0.weight", "classifier.weight"),  # the ImageNet form
    ("backbone.stem.0.weight", "head.fc.weight"),  # MMRazor's
    ("encoder.weight", "decoder.weight"),  # language models
)
"""Two weights of each kind of network: what stands before both names is not part of them."""

Weights = dict[str, Tensor]
T = TypeVar("T")


class WeightFile(NamedTuple):
    """The networks of a file by their place in it, mostly one, and the genotype if it has one."""

    path: Path
    networks: dict[str, Weights]
    genotype: Genotype | None = None

    def fitting(self, use: Callable[[Weights], T]) -> T:
        """Return what `use` makes of the network that it does not refuse.

        Of several that fit, that of `state_dict` is taken, else none. Of several it is said which.
        """
        made: dict[str, T] = {}
        refusals: list[SettingsError] = []
        for place, weights in self.networks.items():
            try:
                check_values(self.path, weights)
                made[place] = use(weights)
            except SettingsError as error:
                refusals.append(error)
        if not made:
            raise refusals[0]
        usual = [place for place in made if len(made) == 1 or "state_dict" in place.split(".")]
        if len(usual) != 1:
            raise SettingsError(
                f"{self.path} holds {len(made)} networks that fit ({listed(made)}): name one, as "
                f"{self.path}:{next(iter(made))}"
            )
        if len(self.networks) > 1:
            print(f"{self.path} holds {listed(self.networks)}: {usual[0]} is read.")
        return made[usual[0]]


def read_weights(path: Path) -> WeightFile:
    """Read the networks of a file of `torch.save` or of safetensors, whatever is around them.

    A folder stands for the `weights.safetensors` in it; FILE:PLACE is one of several state dicts.
    Raises SettingsError for a file that is missing, damaged, holds code or holds no network.
    """
    path, place = _parted(path)
    every, entry = _read(path)
    named = {p: each for p, each in every.items() if f"{p}.".startswith(f"{place}.") or not place}
    if not named:
        raise SettingsError(f"{path} has no network in {show(place)}, but in {listed(every)}.")
    networks = {p: each for p, each in named.items() if "encoder.weight" not in each}
    if not networks:
        raise SettingsError(
            f"{path} holds a language model, which tells no images apart; "
            "recurrent.retrain.load_network(FOLDER) reads it from its run folder."
        )
    text = entry.get("genotype")
    return WeightFile(path, networks, Genotype.from_text(text) if text else None)


def _parted(path: Path) -> tuple[Path, str]:
    """Return the file that a folder, FILE:PLACE or the path itself stands for, and the place."""
    if os.path.isdir(path):
        return path / WEIGHTS, ""  # of a retraining's run folder
    file, _, place = str(path).rpartition(":")
    return (Path(file), place) if os.path.isfile(file) else (path, "")


def read_run(folder: Path) -> Weights:
    """Return the weights of a finished retraining; SettingsError where there are none."""
    file = folder / WEIGHTS
    if not is_there(file):
        way_out = way_back(folder) or "; finish its retraining first"
        raise SettingsError(f"{folder} holds no {WEIGHTS}{way_out}.")
    return WeightFile(file, _read(file)[0]).fitting(lambda weights: weights)


def describe(path: Path) -> Row:
    """Return what the weights in a file, or in a run folder, know of the data they are from.

    Of pictures these are the fields of `PictureData`, of text `vocabulary`, its words in order with
    spaces between; `dataset` of both. Empty for weights from elsewhere or of an older version.
    """
    file, _ = _parted(path)
    data = _read_entry(file).get("data") if kind_of_file(file) == SAFETENSORS else None
    if not data and file.name == WEIGHTS:
        with contextlib.suppress(SettingsError):  # weights may lie in any folder
            data = stored_run(file.parent).get("data")
    return data if isinstance(data, dict) else {}


def _read(path: Path) -> tuple[dict[str, Weights], Row]:
    """Return the networks by place, and what the metadata have of `genotype` and `data`."""
    kind = kind_of_file(path)
    if kind == SAFETENSORS:
        with _opened(path) as file:
            # Copies: on Windows a file that is mapped cannot be written again.
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _networks(path, weights), _read_entry(path)
    if kind == TORCH:
        return _networks(path, _read_torch(path)), {}
    way_out = way_back(path.parent) if path.name == WEIGHTS and not os.path.exists(path) else ""
    way_out = way_out or ". Give weights or a retraining's folder, and a cell as the genotype"
    raise SettingsError(f"{path} is {kind or 'of no known kind'}{way_out}.")


def _read_entry(path: Path) -> Row:
    with _opened(path) as file:
        metadata = file.metadata() or {}
        entry: Any = json.loads(metadata[ENTRY]) if ENTRY in metadata else metadata
        if not isinstance(entry, dict) or not isinstance(entry.get("genotype", ""), str):
            raise ValueError(f"its metadata {ENTRY!r} hold no genotype")
        return entry


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raise SettingsError where its reader finds it damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is damaged: {error}; write or download it again.") from error


CORES = ("core", "_core")  # of NumPy before and from version 2
PLAIN: list[Any] = [Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilBHILefd")]
PLAIN += [(np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in CORES]
"""Plain data that torch does not take as such: arguments of a command and NumPy's numbers."""


def _read_torch(path: Path) -> Any:
    try:  # opened here: by some names torch would guess what is in a file
        with torch.serialization.safe_globals(PLAIN), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # any reader's complaint means the same: no file of weights
        reason = str(error).strip().partition("\n")[0] or "it is cut short"
        if isinstance(error, pickle.UnpicklingError):  # not torch's advice, which is to trust it
            code = re.search(r"GLOBAL (\S{1,100})", str(error))
            reason = f"it holds more than plain data, {code[1] if code else 'or is damaged'}"
        raise SettingsError(
            f"{path} is not a file of weights alone ({reason}); whole pickled modules are not read,"
            " since they can run code: save its state_dict()."
        ) from error


def _networks(path: Path, content: object) -> dict[str, Weights]:
    """Return every network in a file's dicts, with its place: keys and prefix, joined by dots."""
    dicts = _dicts(content)
    joined = {f"{place}{name}": each[name] for place, each in dicts.items() for name in each}
    for several in (dicts, {"": joined}):  # the parts of a network may stand in dicts of their own
        networks = {
            f"{place}{prefix}".removesuffix(".") or ".": weights
            for place, tensors in several.items()
            for prefix, weights in _unwrapped(tensors).items()
        }
        if networks:
            return networks
    names = joined or (map(str, content) if isinstance(content, Mapping) else ())
    what = "network of DARTS" if joined else "weights"
    raise SettingsError(
        f"{path} holds no {what}, but a {type(content).__name__} ({listed(names)}); save the "
        "state_dict() of one, with stem.0.weight and classifier.weight."
    )


def _dicts(content: object) -> dict[str, Weights]:
    """Return all dicts of tensors, however deep, by the keys that lead there, a dot after each."""
    dicts: dict[str, Weights] = {}
    places, seen = [("", content)], set()
    for place, each in places:  # which grows
        if id(each) in seen or len(place) > 200:
            continue
        seen.add(id(each))
        pairs = dict(enumerate(each)) if isinstance(each, list | tuple) else each
        if isinstance(pairs, Mapping):
            places += [(f"{place}{key}.", value) for key, value in pairs.items()]
            tensors = {str(key): v for key, v in pairs.items() if isinstance(v, Tensor)}
            dicts |= {place: tensors} if tensors else {}
    return dicts


def _unwrapped(tensors: Weights) -> dict[str, Weights]:
    """Return the networks of one dict by the prefix of their names, which are now without it."""
    tensors = {name: value for name, value in tensors.items() if name != "n_averaged"}  # of EMAs
    bare = {plain_name(name): value for name, value in tensors.items()}
    bare = bare if len(bare) == len(tensors) else tensors  # else two would have one name
    prefixes = {
        name.removesuffix(first)
        for first, last in LANDMARKS
        for name in bare
        if f".{name}".endswith(f".{first}") and name.removesuffix(first) + last in bare
    }
    networks: dict[str, Weights] = {prefix: {} for prefix in sorted(prefixes)[:100]}
    beside: Weights = {}
    for name, value in bare.items():
        prefix = max((each for each in networks if name.startswith(each)), key=len, default="")
        networks.get(prefix, beside)[name.removeprefix(prefix)] = value
    if networks and beside:
        print(f"not read, since it is no part of a network: {listed(beside)}.")
    return networks


def plain_name(name: str) -> str:
    """Return the name that a weight has without the wrappers of its network or of a part of it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def listed(names: Iterable[str]) -> str:
    """Return the first names, each short and on one line, and how many more there are."""
    every = [name if name.isprintable() and len(name) < 100 else show(name) for name in names]
    more = f", and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def check_values(path: Path, weights: Weights) -> None:
    """Raise SettingsError for what is no dense table of finite numbers, or not in the file."""
    room = 4 * os.path.getsize(path) + 2**20  # one stored number may stand for a table of any shape
    for name, value in weights.items():
        room -= 0 if value.is_nested else math.prod(value.shape) * value.element_size()
        if fault := _fault(name, value, room):
            raise SettingsError(f"{path}: {listed([name])} {fault}.")


def _fault(name: str, value: Tensor, room: int) -> str:
    real = value.is_floating_point() or name.endswith(COUNTER)
    dense = value.layout == torch.strided and not value.is_nested and not value.is_quantized
    if not dense or not real or value.is_complex():
        return f"is {value.dtype}, {value.layout}; save it in floating point, dense"
    if value.is_meta or not value.numel() or room < 0:
        return f"has the shape {tuple(value.shape)}, and the file no such values; save it whole"
    numbers = value.float()
    odd = int((~numbers.isfinite()).sum())
    if odd and not name.endswith(COUNTER):
        return f"has {odd} of {value.numel()} values NaN or infinite; take another checkpoint"
    negative = name.endswith("running_var") and bool((numbers < 0).any())
    return "has a negative variance; take another checkpoint" if negative else ""


def check_fit(net: nn.Module, tensors: Mapping[str, Tensor], source: object) -> Weights:
    """Return all weights of a network; say which names and shapes differ if they do not fit.

    Batch normalisation's counters, which files of torch 0.3 lack and nothing here depends on, are
    taken as zero. The network may be on the meta device.
    """
    wanted = net.state_dict()
    counters = [name for name in wanted if name.endswith(COUNTER)]
    given = {**{name: torch.tensor(0) for name in counters}, **tensors}
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in given and given[name].shape != value.shape
        ],
    }
    told = [f"{len(names)} {kind} ({listed(names)})" for kind, names in problems.items() if names]
    if told:
        raise SettingsError(
            f"{source} does not fit the network: {'; '.join(told)}. Is it of this genotype, with "
            "so many channels and layers, with or without the auxiliary head?"
        )
    return given


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Put weights into a network; SettingsError if they do not fit, see `check_fit`."""
    net.load_state_dict(check_fit(net, tensors, source))


def save_weights(
    weights: nn.Module | Mapping[str, Tensor],
    genotype: BaseGenotype,
    path: Path,
    data: Row | None = None,
) -> None:
    """Write a network or its state as safetensors with its genotype and what it knows of its data.

    A language model's tied matrix stands there twice, as in the original's files. Names are those
    of the network itself, be it compiled or wrapped.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    copies = ((name, value.cpu().clone()) for name, value in state.items())
    tensors = {plain_name(name): value.contiguous() for name, value in copies}
    entry = {"genotype": str(genotype), "data": data or {}}
    write_whole(path, save(tensors, {ENTRY: json.dumps(entry)}))
