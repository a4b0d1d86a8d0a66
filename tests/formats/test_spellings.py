"""Cells as other projects spell them, and texts that are none: read as data, never run."""

import re
from collections.abc import Callable

import pytest
from kind_tools import CELL

from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import read
from darts_lib.genotype import PUBLISHED, GenotypeError
from darts_lib.retrain import RetrainConfig

V2 = PUBLISHED["DARTS_V2"]


def flat(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"('{name}', {source}{tail})" for name, source in pairs)


def by_node(pairs: tuple[tuple[str, int], ...], tail: str = "") -> str:
    return ", ".join(f"[{flat(pairs[i : i + 2], tail)}]" for i in range(0, len(pairs), 2))


SPELLINGS = [
    (flat, "", "[2, 3, 4, 5]"),
    (flat, "", "range(2, 6)"),
    (by_node, "", "range(2, 6)"),
    (flat, ", 0.130174", "range(2, 6)"),  # a weight in each pair
    (by_node, ", 1.0", "(2, 3, 4, 5)"),
]


@pytest.mark.parametrize(("pairs", "tail", "concat"), SPELLINGS)
def test_a_cell_is_read_in_whatever_way_other_projects_spell_it(
    pairs: Callable[..., str], tail: str, concat: str
) -> None:
    """Of D-X-Y/AutoDL-Projects#11 and khanrc/pt.darts#44."""
    text = (
        f"Genotype(normal=[{pairs(V2.normal, tail)}], normal_concat={concat}, "
        f"reduce=[{pairs(V2.reduce, tail)}], reduce_concat={concat})"
    )
    spread = "\n  " + re.sub(r"([\[(,=])", r" \1\n\t ", text) + "  # copied from a log\n"
    for spelling in (text, spread):
        assert find_genotype(spelling) == read(spelling) == V2
        assert RetrainConfig.create(scale="laptop", genotype=spelling).genotype == str(V2)


def test_what_is_no_weight_is_no_pair() -> None:
    for third in ("1", "None", "'0.5'", "0.1, 0.2"):
        with pytest.raises(GenotypeError, match=r"is not a pair \('operation', source\)"):
            find_genotype(CELL.replace("'sep_conv_3x3', 0", f"'sep_conv_3x3', 0, {third}"))
