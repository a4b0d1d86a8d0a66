"""Chapter 03's exercises: folded solutions pass, typical wrong answers get the hint that fits."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from chapter_solutions import chapter_cells, solutions
from torch import Tensor

from darts_lib.teaching.exercises import bilevel as checks
from darts_lib.teaching.gradient_bugs import BUGS
from darts_lib.teaching.smooth_problem import relative_error, smooth_problem

CHAPTER = "03_search"
TESTS: dict[str, Callable[[Any], None]] = {
    "end": checks.end_of_toy,
    "product": checks.mixed_product,
    "step": checks.virtual_step,
    "names": checks.spot_the_bugs,
}
Slope = Callable[[Tensor], Tensor]


@pytest.mark.parametrize("name", TESTS)
def test_the_folded_solution_passes(name: str) -> None:
    TESTS[name](solutions(CHAPTER)[name])


def test_every_exercise_starts_without_an_answer() -> None:
    code = "\n".join(chapter_cells(CHAPTER, "code"))
    for name, test in TESTS.items():
        assert f"{name} = None" in code
        assert f"check({name}, checks.{test.__name__})" in code


@pytest.mark.parametrize("letter", checks.BUGS_SHOWN)
def test_the_shown_formula_is_the_named_bug_and_no_other(letter: str) -> None:
    wanted = ("def moved", "def formula_")
    namespace: dict[str, Any] = {}
    exec(
        "import torch\nfrom darts_lib.bilevel import ArchitectureGradient, gradients\n"
        + "\n".join(cell for cell in chapter_cells(CHAPTER, "code") if cell.startswith(wanted)),
        namespace,
    )
    arguments = smooth_problem(learning_rate=0.5).arguments
    shown = namespace[f"formula_{letter.lower()}"](*arguments)
    same = [
        name
        for name, bug in BUGS.items()
        if relative_error(bug(*arguments).implicit, shown.implicit) < 1e-6
        and relative_error(bug(*arguments).direct, shown.direct) < 1e-6
    ]
    assert same == [checks.BUGS_SHOWN[letter]]


# --- wrong answers ------------------------------------------------------------------------------


def multiplied(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    return (slope(w + eps * v) - slope(w - eps * v)) / 2 * eps


def two_forgotten(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    return (slope(w + eps * v) - slope(w - eps * v)) / eps


def minus_first(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    return (slope(w - eps * v) - slope(w + eps * v)) / (2 * eps)


def one_sided(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    return (slope(w + eps * v) - slope(w)) / eps


def not_normed(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    return (slope(w + radius * v) - slope(w - radius * v)) / (2 * radius)


def divided_by_radius(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    return (slope(w + eps * v) - slope(w - eps * v)) / (2 * radius)


def summed(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    return two_forgotten(slope, w, v, radius).sum() / 2


def in_place(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    eps = radius / v.norm()
    plus = slope(w.add_(eps * v))
    return (plus - slope(w.sub_(2 * eps * v))) / (2 * eps)


def never_asked(slope: Slope, w: Tensor, v: Tensor, radius: float) -> Tensor:
    return v


def stepped_in_place(w: Tensor, g: Tensor, b: Tensor, xi: float, mu: float, wd: float) -> Tensor:
    return w.sub_(xi * (g + wd * w + mu * b))


Step = Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor]
STEPS: list[tuple[Step, str]] = [
    (lambda w, g, b, xi, mu, wd: w - xi * (g + wd * w), "no momentum"),
    (lambda w, g, b, xi, mu, wd: w - xi * (g + mu * b), "no weight decay"),
    (lambda w, g, b, xi, mu, wd: w - xi * g, "neither"),
    (lambda w, g, b, xi, mu, wd: w + xi * (g + wd * w + mu * b), "climbs"),
    (lambda w, g, b, xi, mu, wd: w - xi * (g + wd * w + b), "counts whole"),
    (lambda w, g, b, xi, mu, wd: w - xi * (g + mu * b) - wd * w, "inside the brackets"),
    (lambda w, g, b, xi, mu, wd: w - xi * (g + mu * (b + wd * w)), "buffer alone"),
    (lambda w, g, b, xi, mu, wd: w - xi * (g + wd * g + mu * b), "expected"),
    (lambda w, g, b, xi, mu, wd: (w - xi * g).sum(), "same shape"),
    (stepped_in_place, "in place"),
]
WRONG: list[tuple[Callable[[Any], None], Any, str]] = [
    (checks.end_of_toy, lambda xi: 2 - 2 * xi, "straight line"),
    (checks.end_of_toy, lambda xi: 2 / (1 + xi), "the 2 comes from"),
    (checks.end_of_toy, lambda xi: 1.0, "At rest w = alpha"),
    (checks.mixed_product, multiplied, "divide by the product"),
    (checks.mixed_product, two_forgotten, "2 eps apart"),
    (checks.mixed_product, minus_first, "turned round"),
    (checks.mixed_product, one_sided, "both sides"),
    (checks.mixed_product, not_normed, "norm of v"),
    (checks.mixed_product, divided_by_radius, "not by 2 R"),
    (checks.mixed_product, summed, "one number for each alpha"),
    (checks.mixed_product, in_place, "work on a copy"),
    (checks.mixed_product, never_asked, "never called"),
    *((checks.virtual_step, step, hint) for step, hint in STEPS),
    (checks.spot_the_bugs, {"A": "wrong_sign", "B": "multiplied_by_eps"}, "A: go through"),
    (checks.spot_the_bugs, {**checks.BUGS_SHOWN, "B": "wrong_sign"}, "B: read its last"),
    (checks.spot_the_bugs, {"A": "multiplied_by_eps"}, "both"),
    (checks.spot_the_bugs, "multiplied_by_eps", "both"),
]


@pytest.mark.parametrize(("test", "answer", "hint"), WRONG)
def test_a_wrong_answer_gets_its_hint(
    test: Callable[[Any], None], answer: object, hint: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(hint)):
        test(answer)
