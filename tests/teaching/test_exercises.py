"""Exercises of all chapters: solutions pass, nothing is answered, what hints say is true."""

import pytest
import torch
from chapter_tools import NOTEBOOKS, chapter_cells, checks_of, exercises, imported, solution

from darts_lib.search_space import PRIMITIVES
from darts_lib.teaching.exercises import bilevel, genotype, recurrent
from darts_lib.teaching.gradient_bugs import BUGS
from darts_lib.teaching.smooth_problem import relative_error, smooth_problem

CHAPTERS = [
    pytest.param(path.stem, marks=pytest.mark.deep if path.stem == "07_transfer" else ())
    for path in NOTEBOOKS
]
"""The solution of 07 builds the ImageNet network again and again."""


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_check_has_an_exercise_that_waits_and_a_solution_that_passes(chapter: str) -> None:
    asked = set()
    for name, cell, check, answer in exercises(chapter):
        asked.add(check)
        assert f"{name} = None" in cell
        check(answer)
    assert asked == checks_of(imported(chapter)["checks"])


def test_right_answers_of_another_kind_pass() -> None:
    def perplexity(losses: list[float], words: list[int]) -> float:
        total = (torch.tensor(losses) * torch.tensor(words)).sum() / sum(words)
        return float(torch.exp(total))

    recurrent.text_perplexity(perplexity)
    assert solution("05_retrain", "area")(32, 16) == pytest.approx(0.191, abs=5e-4)


@pytest.mark.parametrize("letter", bilevel.BUGS_SHOWN)
def test_the_shown_formula_is_the_named_bug_and_no_other(letter: str) -> None:
    namespace = imported("03_search")
    for cell in chapter_cells("03_search", "code"):
        if cell.startswith(("def moved", "def formula_")):
            exec(cell, namespace)
    arguments = smooth_problem(learning_rate=0.5).arguments
    shown = namespace[f"formula_{letter.lower()}"](*arguments)
    same = [
        name
        for name, bug in BUGS.items()
        if relative_error(bug(*arguments).implicit, shown.implicit) < 1e-6
        and relative_error(bug(*arguments).direct, shown.direct) < 1e-6
    ]
    assert same == [bilevel.BUGS_SHOWN[letter]]


def test_what_the_hints_say_of_the_suspects_is_true() -> None:
    """The refutations: A and C ignore a constant, B and C keep one large weight, A and B two."""
    generator = torch.Generator().manual_seed(1)
    table = 2 * torch.randn(4, len(PRIMITIVES), generator=generator, dtype=torch.float64)
    for row in range(4):
        shifted = table.clone()
        shifted[row] += 10
        for rule in (genotype.SUSPECTS["A"], genotype.SUSPECTS["C"]):
            assert rule(shifted, PRIMITIVES) == rule(table, PRIMITIVES)
    names = ("none", "sep_conv_3x3", "max_pool_3x3")
    shares = torch.tensor([[0.4, 0.5, 0.1], [0.3, 0.35, 0.35], [0.05, 0.9, 0.05]]).log()
    both_large = torch.tensor([[0.0, 9.0, 9.0], [9.0, 8.0, 0.0]], dtype=torch.float64)
    sources = {
        name: [{source for _, source in rule(x, names)} for x in (shares, both_large)]
        for name, rule in genotype.SUSPECTS.items()
    }
    assert sources == {"A": [{1, 2}, {0, 1}], "B": [{0, 2}, {0, 1}], "C": [{0, 2}, {0}]}
