"""The settings of the five kinds of run: the papers' and the laptop's values, what is refused."""

from typing import Any

import pytest
from kind_tools import KINDS

from darts_lib.engine.refusals import SettingsError
from darts_lib.genotype import PUBLISHED
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.network import Dropout
from darts_lib.search_space import PRIMITIVES

SGD = {"momentum": 0.9, "gradient_clip": 5.0}
TEXT = {"dataset": "penn", "bptt": 35, "clip": 0.25, "learning_rate": 20.0}


@pytest.mark.parametrize(("name", "scale", "values"), [
    ("search", "paper", SGD | {"dataset": "cifar10", "channels": 16, "layers": 8, "nodes": 4,
        "batch_size": 64, "order": 2, "seed": 0, "learning_rate": 0.025, "weight_decay": 3e-4,
        "final_learning_rate": 0.001, "alpha_learning_rate": 3e-4, "alpha_weight_decay": 1e-3,
        "method": "darts", "supernet": "fused", "primitives": PRIMITIVES}),
    # At the paper's rate and a dozen steps an epoch, the alphas could not move.
    ("search", "laptop", {"dataset": "digits", "alpha_learning_rate": 0.05}),
    ("retraining", "paper", SGD | {"dataset": "cifar10", "channels": 36, "layers": 20,
        "learning_rate": 0.025, "weight_decay": 3e-4, "auxiliary": True, "auxiliary_weight": 0.4,
        "drop_path": 0.2, "cutout": 16, "batch_size": 96, "cell": PUBLISHED["DARTS_V2"]}),
    ("retraining", "laptop", {"dataset": "digits", "cutout": 0}),
    ("ImageNet retraining", "paper", SGD | {"channels": 48, "layers": 14, "epochs": 250,
        "batch_size": 128, "learning_rate": 0.1, "schedule": "exponential", "rate_decay": 0.97,
        "weight_decay": 3e-5, "label_smoothing": 0.1, "auxiliary": True, "auxiliary_weight": 0.4,
        "drop_path": 0, "cutout": 0, "image_size": 224, "seed": 0}),
    ("recurrent search", "paper", TEXT | {"width": 300, "batch_size": 256, "epochs": 50,
        "order": 2, "nodes": 8, "weight_decay": 5e-7, "alpha_learning_rate": 3e-3,
        "alpha_weight_decay": 1e-3, "tar": 1e-3, "ar": 0.0,
        "dropout": Dropout(0.0, 0.2, 0.75, 0.25, 0.75)}),
    ("recurrent search", "laptop", {"dataset": "topics", "batch_size": 32}),
    ("recurrent retraining", "paper", TEXT | {"width": 850, "batch_size": 64,
        "weight_decay": 8e-7, "spread": 5.0, "patience": 5, "valid_batch_size": 10,
        "dropout": Dropout(0.1, 0.2, 0.75, 0.25, 0.75), "cell": RECURRENT["DARTS_V2"]}),
])  # fmt: skip
def test_presets_are_the_papers_and_laptops(name: str, scale: str, values: dict[str, Any]) -> None:
    settings = KINDS[name].config.create(scale=scale)
    assert {setting: getattr(settings, setting) for setting in values} == values


@pytest.mark.parametrize(("name", "given", "words"), [
    ("search", {"route": "exct"}, "unknown route 'exct'; choose one of first_order"),
    ("search", {"method": "dart"}, "unknown method 'dart'; did you mean 'darts'?"),
    ("search", {"supernet": "fusd"},
        "supernet='fusd' is not for method='darts'; use 'fused' or 'plain'"),
    ("search", {"supernet": "plain", "recompute": True}, "recompute=True is for supernet='fused'"),
    ("search", {"primitives": ["skip_connect", "sep_conv_3"]},
        "unknown primitive 'sep_conv_3'; did you mean 'sep_conv_3x3'?"),
    ("search", {"primitives": ["none"]},
        "primitives=['none'] must be distinct, one at least not 'none'"),
    ("search", {"edge_primitives": {"normal": [["none"]]}},
        "edge_primitives['normal'] lists 1 edges"),
    ("retraining", {"genotype": "DARTS_V9"}, "unknown genotype 'DARTS_V9': did you mean"),
    ("ImageNet retraining", {"dataset": "cifar10"}, "dataset='cifar10'"),
    ("ImageNet retraining", {"cutout": 16}, "cutout=16"),
    ("ImageNet retraining", {"holdout": 0.5}, "holdout=0.5"),
    ("ImageNet retraining", {"image_size": 32}, "image_size=32"),
    ("ImageNet retraining", {"channels": 7}, "channels=7"),
    ("ImageNet retraining", {"schedule": "step"}, "'cosine' or 'exponential'"),
    ("recurrent search", {"dataset": "pen"}, "unknown text 'pen'; did you mean"),
    ("recurrent search", {"max_images": 5}, "max_images is for images; for text use max_tokens"),
    ("recurrent search", {"compile": "on"}, "compile='on' is for images"),
    ("recurrent search", {"amp": "on"}, "amp='on' is for images"),
    ("recurrent search", {"graph": "on", "device": "cpu"}, "graph='on' needs CUDA"),
    ("recurrent retraining", {"genotype": "DARTS_V1x"}, "did you mean 'DARTS_V1'"),
    ("recurrent retraining", {"dataset": "digits"}, "unknown text 'digits'"),
])  # fmt: skip
def test_wrong_settings_are_named_in_one_line(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        KINDS[name].settings(**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "given", "words"), [
    ("search", {"batch_size": 5000}, "batch_size=5000 is more than the 718"),
    ("recurrent search", {"dataset": "topics", "batch_size": 4000},
        "6,000 tokens is too short for batch_size=4000"),
    ("retraining", {"holdout": 0.999},
        r"holdout=0\.999 leaves 1 of the 1437 pictures to learn from and 1436 to judge"),
    ("retraining", {"holdout": 0.001, "max_images": 100},
        "leaves 100 of the 100 pictures to learn from and 0 to judge by"),
    ("retraining", {"holdout": 0.99},
        r"holdout=0\.99 leaves no picture of class '\d' of digits to learn from"),
])  # fmt: skip
def test_too_few_data_are_refused(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        KINDS[name].run(KINDS[name].settings(**given))


def test_an_empty_cell_cannot_be_trained() -> None:
    for name, data in {"retraining": "digits", "recurrent retraining": "topics"}.items():
        with pytest.raises(SettingsError, match="genotype is empty; name a cell"):
            KINDS[name].go(KINDS[name].settings(genotype="", dataset=data))
