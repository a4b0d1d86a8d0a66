"""Every valid configuration takes a step; every other is refused by name, in one line.

Fuzzed, by types and bounds of the configurations' own fields.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from fuzz_tools import examples, one_line, refusal_of
from hypothesis import given
from hypothesis import strategies as st
from kind_tools import KINDS
from picture_tools import make
from pydantic.fields import FieldInfo

from darts_lib.bilevel import ROUTES
from darts_lib.data.images import ImageSet
from darts_lib.data.text import Corpus
from darts_lib.derivation import random_genotype
from darts_lib.engine.command_line import read_config
from darts_lib.engine.refusals import SettingsError, is_unset, show
from darts_lib.engine.settings import DATASETS, RunConfig
from darts_lib.recurrent.genotype import random_genotype as random_recurrent_genotype
from darts_lib.recurrent.retrain import RecurrentRetrainConfig
from darts_lib.retrain import RetrainConfig
from darts_lib.search import SearchConfig

Values = st.SearchStrategy[Any]

NOT_DRAWN = {"data_root", "run_dir", "device", "threads", "image_size", "workers", "holdout"}
NOT_DRAWN |= {"sync_batch_norm", "method", "supernet", "primitives", "edge_primitives"}
"""What depends on the machine or on the data that are read, or has tests of its own."""
SIZES = {"layers": (1, 3), "nodes": (1, 3), "batch_size": (2, 9), "width": (1, 8), "bptt": (2, 7)}
SIZES |= {"accumulate": (1, 12), "valid_batch_size": (1, 9)}
"""Always drawn: the paper's would take minutes, and parts of a batch or a text have an end."""
TOPS = {"gradient_clip": 1e9, "clip": 1e9, "madds_weight": 10.0, "auxiliary_weight": 10.0}
TOPS |= {"spread": 1e38, "drop_path": 0.999}
TOPS |= {f"dropout_{x}": 0.99 for x in ("words", "embedding", "cell_input", "hidden", "output")}
"""The largest values drawn, where it is neither 1 nor the field's own bound."""


def cells(draw: Callable[..., Any]) -> Values:
    return st.builds(lambda *given: str(draw(*given)), st.integers(0, 999), st.integers(1, 3))


CHANNELS = {"channels": st.sampled_from([2, 4, 6, 8])}
IMAGENET = {"genotype": cells(random_genotype), "batch_size": st.integers(2, 5)}
IMAGENET |= {"image_size": st.integers(64, 67), "workers": st.just(0), "max_images": st.just(6)}
TEXT = {"dataset": st.just("topics"), "learning_rate": st.floats(1e-9, 30)}
TEXT |= {"amp": st.sampled_from(["auto", "off"]), "max_images": st.just(0)}
MORE: dict[str, dict[str, Values]] = {
    "search": {**CHANNELS, "dataset": st.sampled_from(DATASETS)},
    "retraining": {**CHANNELS, "genotype": cells(random_genotype)},
    "ImageNet retraining": {**CHANNELS, **IMAGENET},
    "recurrent search": TEXT,
    "recurrent retraining": {**TEXT, "genotype": cells(random_recurrent_genotype)},
}
"""What the fields of a kind do not say; always drawn too."""


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt")
    return {n: getattr(each, n) for each in field.metadata for n in names if hasattr(each, n)}


def values_of(name: str, field: FieldInfo) -> Values | None:
    """Return the values of a field, by its type and its bounds, or None for a text."""
    kind, bounds = field.annotation, bounds_of(field)
    if get_origin(kind) is Literal and len(get_args(kind)) > 1:
        unlikely = {"on"} if name in ("compile", "graph") else set()  # seconds, or no CUDA
        return st.sampled_from([value for value in get_args(kind) if value not in unlikely])
    if kind is int:
        most = min(bounds.get("le", 2**31 - 1), bounds.get("lt", 2**31) - 1)
        return st.integers(bounds["ge"], most)
    if kind is float:
        least, top = bounds.get("ge", 1e-9), TOPS.get(name, bounds.get("le", 1.0))
        return st.floats(least, top, exclude_max="lt" in bounds, allow_subnormal=False)
    if name == "route":
        return st.sampled_from(["", *ROUTES])
    return st.booleans() if kind is bool else None


def settings_of(name: str) -> Values:
    fields = KINDS[name].config.model_fields
    needed = {n: st.integers(*SIZES[n]) for n in SIZES if n in fields} | MORE[name]
    left_out = NOT_DRAWN | needed.keys()
    drawn = {n: values_of(n, field) for n, field in fields.items() if n not in left_out}
    optional = {n: values for n, values in drawn.items() if values is not None}
    return st.fixed_dictionaries(needed, optional=optional)


def checked(kind: type[RunConfig], given: dict[str, Any]) -> Any:
    """Return the configuration, after checking that it keeps each value and comes back as text."""
    config = kind.create(**given)
    kept = {name: getattr(config, name) for name in given if name != "scale"}
    assert repr(kept) == repr({name: given[name] for name in kept})
    stored = json.loads(json.dumps(config.settings_that_matter()))
    assert kind.create(**{**given, **stored}) == config
    texts = {name: str(value) for name, value in given.items()}  # as papermill may pass them
    assert kind.create(**texts) == config
    return config


TAKEN: list[bool] = []
"""Whether each step taken here had a gradient that float32 holds."""


def assert_taken(run: Any) -> None:
    """A step leaves sound tensors behind; a gradient that overflowed is told and moved none.

    Two pictures of one pixel may be the same in a channel. Normalising that multiplies gradients by
    up to 316, and several normalisations in a row leave float32.
    """
    tensors = [*run.net.parameters(), *run.alphas.values()]
    tensors += [run.train_hidden] if "train_hidden" in vars(run) and run.alphas else []
    tensors += run.average.parameters() if hasattr(run, "average") else []
    try:
        run.guard.check(1, run.config.learning_rate, "here")
        TAKEN.append(True)
        tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
    except FloatingPointError as error:
        one_line(error, "was no number", "learning rate", "new run_dir")
        TAKEN.append(False)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors)


def pictures(draw: Callable[[Values], Any]) -> ImageSet:
    """Return 20 pictures of any shape, down to one pixel, in a few classes."""
    channels, classes = draw(st.sampled_from([1, 3])), draw(st.integers(2, 12))
    shape = (20, channels, draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    images, labels = torch.randint(256, shape, dtype=torch.uint8), torch.randint(classes, (20,))
    names, figures = tuple(map(str, range(classes))), (0.5,) * channels
    return ImageSet("own", images, labels, names, figures, figures, 1, 0)


TOKENS = torch.arange(400).square() % 11
CORPUS = Corpus(TOKENS, TOKENS[:100], TOKENS[:100], tuple("abcdefghijk"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.deep] if name in ("search", "retraining") else [])
    for name in KINDS
])  # fmt: skip
@given(data=st.data())
@examples(10)
def test_every_configuration_takes_a_step(name: str, data: st.DataObject, folder: Path) -> None:
    of_imagenet = name == "ImageNet retraining"
    read = {"data_root": str(folder)} if of_imagenet else {}
    config = checked(KINDS[name].config, {**data.draw(settings_of(name)), **read})
    own: Any = CORPUS if "recurrent" in name else pictures(data.draw)
    own = (own, own) if name == "search" else own
    run: Any = KINDS[name].run(config, **({} if of_imagenet else {"data": own}))
    generator = torch.Generator().manual_seed(0)
    run.averaging = data.draw(st.booleans())
    run.begin(data.draw(st.integers(0, config.epochs - 1)), generator)
    first, *others = next(run.batches(generator))
    total = run.step(first, *others)
    assert total.isfinite().all()
    assert_taken(run)
    if "recurrent" not in name:
        assert float(total[2]) == len(first[0])
    if name == "retraining":
        with torch.no_grad():
            logits, auxiliary = run.net.eval()(first[0][:1])
        assert auxiliary is None
        assert logits.isfinite().all()


def test_hardly_any_of_these_steps_overflowed() -> None:
    assert TAKEN.count(False) <= 1 + len(TAKEN) / 100


CONFIGS = [kind.config for kind in KINDS.values()]


class Odd:
    """A value that cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


JUNK: list[object] = [None, [], [3], {"a": 1}, {1, 2}, (1, 2), object(), Odd(), len, 1j, b"\xff"]
JUNK += [torch.zeros(2, 2), np.arange(3), [[[[[[[0]]]]]]] * 50, Path("."), True, False, 0.5, -0.5]
JUNK += ["abc", "False", "true", "1,5", "nan", "inf", "-inf", "1e999", "0x10", "--1", "1 2", "1.5"]
JUNK += ["1e3", 1.5, 2**31, 10**12, 10**30, 10**400, 10**5000, "9" * 5000, -(2**31), "Genotype("]
JUNK += [math.nan, math.inf, -math.inf, "\0", "a\0b", "\ud800", "x\ny", "a" * 100_000, "'", "~"]
JUNK += ["🦜", "\u2028", "auto ", "None", "~nobody-of-this-name/x", "~\0", "DARTS_V3", "gpu"]
JUNK += ["Genotype(normal=[])", "Genotype" * 9999, "cuda:99999999999", "cpu:-1", "cpu:1", "meta"]
TRUTHS = dict.fromkeys(("1", "1.0", "on", "t", "y", "yes", "true"), True)
TRUTHS |= dict.fromkeys(("0", "0.0", "off", "f", "n", "no", "false"), False)


def near(bounds: Mapping[str, Any]) -> list[object]:
    return [x for limit in bounds.values() for x in (limit - 1, limit - 1e-6, limit, 2 * limit + 1)]


def means(value: Any, found: Any, field: FieldInfo) -> bool:
    """Say whether what a field has become is what was given, and within the field's bounds."""
    bounds, kind = bounds_of(field), field.annotation
    if kind is bool:
        return TRUTHS.get(str(value).lower()) is found
    if kind in (int, float):
        inside = bounds.get("ge", found) <= found <= bounds.get("le", found)
        inside &= bounds.get("gt", -math.inf) < found < bounds.get("lt", math.inf)
        sound = type(found) is kind and math.isfinite(found) and not isinstance(value, bool)
        return inside and sound and float(value) == found
    return bool(found == value)


def judge(kind: type[RunConfig], name: str, value: object) -> None:
    """A setting is refused by name in one line, or it means what it says."""
    field = kind.model_fields.get(name)
    try:
        config = kind.create(**{name: value})
    except SettingsError as error:
        said = "" if "is for images" in str(error) else show(value)[:30]  # no value would do
        one_line(error, *([name, said] if field else [f"unknown setting {show(name)}"]))
    else:
        assert field, name
        unset = name in kind.FILLED_BY_SCALE and is_unset(value)
        assert unset or means(value, getattr(config, name), field), (name, value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_setting_is_refused_in_one_line_or_means_what_it_says(kind: type[RunConfig]) -> None:
    for name, field in kind.model_fields.items():
        for value in (*JUNK, *near(bounds_of(field))):
            if not (name.endswith("primitives") and isinstance(value, Collection)):
                judge(kind, name, value)  # of a list each part is told


NAMES = st.sampled_from(["cls", "self", "model_config", "x" * 10**5]) | st.text(max_size=40)


@pytest.mark.parametrize("kind", CONFIGS)
@given(data=st.data(), text=st.text(max_size=30))
@examples(60)
def test_any_name_and_text_too(kind: type[RunConfig], data: st.DataObject, text: str) -> None:
    judge(kind, data.draw(st.sampled_from(sorted(kind.model_fields)) | NAMES), text)


WORDS = st.text(max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@given(content=JSON, wrapped=st.booleans(), cut=st.integers(0, 40))
@examples(60)
def test_a_file_of_settings_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: object, wrapped: bool, cut: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "settings.json"
    text = json.dumps({"settings": content} if wrapped else content)
    file.write_text(text[: len(text) - max(0, cut - 30)])
    try:
        read_config(file, SearchConfig)
    except SettingsError as error:
        one_line(error)
    else:  # hypothesis tries the library's own words too, so a setting may be among them
        assert isinstance(content, dict)
        assert set(content) <= set(SearchConfig.model_fields)


@pytest.mark.parametrize(("kind", "given", "words"), [
    (SearchConfig, {"learning_rate": math.nan}, "learning_rate=nan: must be a finite number"),
    (RetrainConfig, {"drop_path": False}, "drop_path=False: a number is wanted"),
    (SearchConfig, {"max_steps": 10**5000}, "max_steps=a huge number: "),
    (SearchConfig, {"epochs": torch.zeros(2, 2)}, "epochs=tensor([[0., 0.], [0., 0.]]): "),
    (SearchConfig, {"data_root": "~nobody-of-this-name/x"}, "no such user"),
    (SearchConfig, {"run_dir": "a\0b"}, "run_dir='a\\x00b': "),
    (RetrainConfig, {"genotype": "~\0"}, "unknown genotype '~\\x00'"),
])  # fmt: skip
def test_what_no_bound_says_is_refused_too(kind: type[RunConfig], given: Any, words: str) -> None:
    refusal_of(lambda: kind.create(**given), words)


@pytest.mark.parametrize("seed", [7, "7", 7.0])
@pytest.mark.parametrize("kind", [RetrainConfig, RecurrentRetrainConfig])
def test_a_random_cell_is_that_of_its_seed_in_every_spelling(kind: Any, seed: object) -> None:
    draw = random_genotype if kind is RetrainConfig else random_recurrent_genotype
    assert kind.create(genotype="random", seed=seed).cell == draw(7)
    assert kind.create(genotype="random", seed=8).cell != draw(7)


def test_the_first_unknown_name_is_told_the_same_each_time() -> None:
    refusal_of(lambda: SearchConfig.create(zzz=1, aaa=2), "unknown setting 'zzz'")
    refusal_of(lambda: SearchConfig.create(aaa=1, zzz=2), "unknown setting 'aaa'")
