"""Any text gives a cell or one line of error; nothing is run, and no text takes long."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cell_texts import NNI_FORMS
from fuzz_tools import examples, one_line
from hypothesis import given
from hypothesis import strategies as st

from darts_lib.derivation import random_genotype
from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import DIALECTS, WRITTEN, main, read, write
from darts_lib.genotype import LIMIT, PUBLISHED, Genotype, GenotypeError
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.genotype import RecurrentGenotype
from darts_lib.recurrent.genotype import find_genotype as find_recurrent

V2 = PUBLISHED["DARTS_V2"]
CELLS = [
    *(write(V2, dialect) for dialect in WRITTEN),
    *(form(V2) for form in NNI_FORMS.values()),
    str(random_genotype(3, 2)).replace("[2, 3]", "range(2, 4)"),
    *map(str, RECURRENT.values()),
]

READERS: list[Callable[[str], object]] = [
    *(functools.partial(read, dialect=name) for name in (None, *DIALECTS)),
    *(Genotype.from_text, RecurrentGenotype.from_text, find_genotype, find_recurrent),
]


def cell_or_line(reader: Callable[[str], object], text: str) -> object:
    """Return what a reader finds; nothing where it refuses in one line."""
    try:
        return reader(text)
    except (GenotypeError, SettingsError) as error:
        one_line(error)
    return None


def read_by_all(text: str) -> int:
    """Return how many readers find a cell, after checking that it comes back; others say a line."""
    cells = [cell for reader in READERS if (cell := cell_or_line(reader, text))]
    for cell in cells:
        assert isinstance(cell, Genotype | RecurrentGenotype)
        assert type(cell).from_text(str(cell)) == cell
        assert type(cell).from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    return len(cells)


def test_the_texts_that_are_changed_are_cells_and_come_back() -> None:
    assert all(map(read_by_all, CELLS))


PARTS = st.text(max_size=8) | st.sampled_from([
    *"()[]{}:,'\"#&*!-|>?%@`=.+~\\;\0\ufeff\u2028\xa0\ud800\t",
    *("\n", "\n  ", "\r\n", "\x85", "0x9", "1e999", "null", "<<", "range(", "p9", "---"),
    *("!!python/object/apply:os.system ['x']", "&a", "*a", "<<: *a", "lambda: 0", "f'{1}'"),
    *("NaN", "Infinity", "-1", "True", "9" * 5000, "0x" + "f" * 5000, "1:" * 99, "b'x'"),
    *("1j", "0x" + "f" * 400 + "+1j", "set()", "__import__(0)", "...", "await x"),
    *("normal=[],", "normal_concat=range(2, 6, x=1),", '"normal": 1,', "normal_n2: 1\n"),
    *("sep_conv_3x3", "none", "tanh", "KIND", "chosen", "_switch", "normal/op_2_0"),
])  # fmt: skip


@st.composite
def nearly(draw: st.DrawFn, texts: list[str]) -> str:
    """Draw a valid text with a few places deleted, inserted, replaced, swapped or repeated."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        other, piece = draw(st.integers(0, len(text))), text[start:end]
        changed = [text[:start] + part + text[end:] for part in ("", piece * 2, piece[::-1])]
        changed += [text[:other] + piece + text[other:]]
        changed += [text[:start] + draw(PARTS) + text[end:]] * 2
        text = draw(st.sampled_from(changed))
    return text


@given(text=nearly(CELLS))
@examples(120)
def test_nearly_a_cell(text: str) -> None:
    read_by_all(text)


@given(parts=st.lists(PARTS, max_size=12))
@examples(50)
def test_any_text(parts: list[str]) -> None:
    for start in ("", "Genotype(normal=[", '{"normal/op_2_0": ', "normal_n2:\n  chosen: "):
        read_by_all(start + "".join(parts))


HOSTILE = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "normal_n2: {{chosen: !!python/object/apply:subprocess.check_output [[touch, {mark}]]}}",
    "normal_n2:\n  chosen:\n  - !!python/object/new:os.system ['touch {mark}']",
    'normal_n2: {{chosen: "\xa0# ", a: !!python/name:os.system}}',
    "chosen: \xa0# !!python/object/apply:os.system ['touch {mark}']",
    "[chosen: a\xa0# , !!python/object/apply:os.system [touch {mark}]]",
    "%TAG ! tag:yaml.org,2002:python/\n---\nchosen: !object/apply:os.system ['touch {mark}']",
    "Genotype(normal=open('{mark}', 'w'))",
    "Genotype(normal=[(open('{mark}', 'w'), 0)], **{{'a': open('{mark}', 'w')}})",
    "Genotype(normal=range(open('{mark}', 'w'), 2))",
    'Genotype(normal=f\'{{open("{mark}", "w")}}\')',
    "Genotype(normal=(lambda: open('{mark}', 'w'))())",
    "Genotype.__class__(normal=open('{mark}', 'w'))",
    "(lambda Genotype: open('{mark}', 'w'))(1)",
    "Genotype(normal=1)\nopen('{mark}', 'w')",
    "Genotype(normal=[[(__import__('os').system('touch {mark}'), 0)]])",
    "normal_n2: {{chosen: ['a#', !!python/object/apply:os.system ['touch {mark}']]}}",
    '{{"normal": {{"__class__": "os.system", "args": ["touch {mark}"]}}}}',
]


def test_no_text_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "hostile"
    for text in HOSTILE:
        assert read_by_all(text.format(mark=mark)) == 0, text
        assert not mark.exists(), text


DEEP = [
    *(opening * 2500 for opening in "([{-~?"),
    *(opening * 2500 for opening in ("- ", "? ", "not ", "lambda:", "a if b else ")),
    *(opening * 2500 for opening in ('{"a":', "[a,", "a[")),
    *("Genotype(normal=" + part * 1500 for part in ("[", "(", "-", "1+", "1,", "a.", "f()", "{1:")),
    "Genotype(normal=" + "f'{" * 200,
    *("Genotype(normal=a" + part * 1500 + ")" for part in ("()", ".b", "+1", "**1", "<1")),
    "Genotype(normal=" + "[" * 90 + "]" * 90 + ")",
    "Genotype(normal='" + "\\N{DIGIT ONE}" * 5000 + "')",
    "Genotype(" + ", ".join(f"a{i}=1" for i in range(9000)) + ")",
    "Genotype(" + "a=1," * 20_000 + ")",
    "Genotype(normal=[" + "('sep_conv_3x3', 0)," * 1500 + "], normal_concat=[" + "2," * 1500 + "])",
    '{"chosen": ' + "[" * 1500 + "]" * 1500 + "}",
    "{" + ", ".join(f'"a{i}": 1' for i in range(7000)) + "}",
    "\n".join(f"normal_n{i}: {{chosen: [a]}}" for i in range(2000)),
    "chosen: {" + ", ".join(f"a{i}: 1" for i in range(2000)) + "}",
    "chosen: " + "[" * 900 + "]" * 900,
    "chosen: [" + "{a: [" * 300 + "]}" * 300 + "]",
    "normal_n2: {chosen: [" + "a," * 1500 + "]}",
    "? " + "[chosen: 1]" * 2000,
    *("chosen: " + part * 40_000 + "1" for part in ("1:", "1_")),
    "chosen: " + " #" * 45_000 + "'",
    "chosen:" + " " * 90_000 + "'",
    *(f"chosen: {a}{b * 40_000}" for a, b in (("'", "''"), ('"', "\\\n"), ("|", "\n "))),
    *("Genotype" + part for part in ("[" + " " * 90_000 + "[", "[ " * 45_000)),
    "chosen" + " " * 90_000,
    *(part * LIMIT for part in (" ", "\n", "\0", "\U0001f600")),
]  # fmt: skip


F = "f" * 5000
HUGE = (f"0x{F}", f"[0x{F}]", f"[('tanh', 0x{F})]", "0x" + "f" * 400 + " + 1j")
ODD = [
    "chosen: 0x" + "f" * 9000,
    "chosen: " + "1:" * 900 + "1.5",
    "Genotype(normal=[0x" + "f" * 9000 + "], normal_concat=[2], reduce=[], reduce_concat=[2])",
    "Genotype(normal=[[('a', 0), ('b', 0x" + "f" * 9000 + ")]], normal_concat=[2], reduce=[[]],"
    " reduce_concat=[2])",
    "Genotype(normal=[('\u2028', 0)], normal_concat=[2], reduce=[], reduce_concat=[2])",
    '{"normal/op_2_0": ' + "9" * 5000 + "}",
    '{"normal": "' + "a" * 9000 + '", "normal_concat": 2, "reduce": 1, "reduce_concat": 2}',
    *("normal_n2: {chosen: [[1], {a: b}]}", "? [a]\n: chosen", "normal_n2: &a {chosen: *a}"),
    *("\ud800", "normal_n2: \ud800"),
    *(f"Genotype(recurrent={huge}, concat=[1])" for huge in HUGE),
    *(f"Genotype(recurrent=[('tanh', 0)], concat={huge})" for huge in HUGE),
    *(opening * 900 for opening in ("[", "{", "- ", '{"a":', "Genotype(")),
    *("Genotype(normal=" + part * 900 + "1)" for part in ("-", "1+")),
]


def refuse_at_once(text: str) -> None:
    started = time.process_time()
    assert read_by_all(text[:LIMIT]) == 0
    # Not a measure of the machine: what was wrong once took minutes, or longer than anyone waits.
    assert time.process_time() - started < 30


@pytest.mark.deep
@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_and_long_texts_are_refused_at_once(text: str) -> None:
    refuse_at_once(text)


def test_odd_texts_are_refused() -> None:
    for text in ODD:
        refuse_at_once(text)


def test_laughs_are_not_multiplied() -> None:
    # Each line would be ten copies of the one before: anchors are refused, and so are copies.
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 12))]
    for text in ("\n".join(lines), "chosen: [b\xa0# , &a [x], " + "*a, " * 99 + "]"):
        with pytest.raises(GenotypeError, match="'&' has no place"):
            read(text, "mmrazor")
    for reader in (Genotype.from_text, RecurrentGenotype.from_text, find_genotype):
        with pytest.raises(GenotypeError, match="more than 100000 characters"):
            reader("Genotype(" + "a=1," * LIMIT)


def test_a_name_that_comes_twice_in_yaml_is_refused_however_it_is_written() -> None:
    for text in (
        "normal_n2: {chosen: [a, b], chosen: [c, d]}",
        "normal_n2: {chosen: [a]}\n'normal_n2': {chosen: [b]}",
        'normal_n2: {chosen: [a]}\n"normal_n2" : {chosen: [b]}',
        "normal_n2: {chosen: [a]}\n? normal_n2\n: {chosen: [b]}",
    ):
        with pytest.raises(GenotypeError, match=r"mmrazor: line \d: .* is there again, first on"):
            read(text, "mmrazor")


def test_what_comes_twice_in_a_genotype_or_is_no_range_is_refused() -> None:
    for text in (str(V2), write(V2, "pt.darts")):
        twice = text.replace("reduce_concat=", "normal_concat=[2], reduce_concat=")
        with pytest.raises(GenotypeError, match="field 'normal_concat' is there more than once"):
            read(twice)
    with pytest.raises(GenotypeError, match="field 'concat' is there more than once"):
        RecurrentGenotype.from_text("Genotype(recurrent=[('tanh', 0)], concat=[1], concat=[1])")
    for more in ("range(2, 6, 1)", "range(2, 6, x=1)", "range(2, stop=6)", "range(6)", "range()"):
        with pytest.raises(GenotypeError, match="'normal_concat' at line 1, column"):
            Genotype.from_text(str(V2).replace("[2, 3, 4, 5]", more, 1))


@given(content=st.binary(max_size=60) | nearly([write(V2, "json"), "[" * 1500]).map(
    lambda text: text.encode("utf-8", "surrogatepass")
))  # fmt: skip
@examples(60)
def test_a_file_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "cells" / "genotype.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    for find in (find_genotype, find_recurrent):
        for name in (str(file), str(file.parent)):
            cell_or_line(find, name)
    for target in ("original", "mmrazor"):
        try:
            main(["convert", str(file), "--to", target])
        except SystemExit as end:
            assert end.code == 1  # noqa: PT017


ODD_NAMES = st.sampled_from(["~\0", "~\ud800", "\ud800", "~x/\0", "//", "."])


@given(name=st.text(max_size=20) | ODD_NAMES)
@examples(60)
def test_any_name(name: str) -> None:
    for find, published in ((find_genotype, PUBLISHED), (find_recurrent, RECURRENT)):
        if name not in {"random", *published}:  # hypothesis tries the library's own words too
            assert cell_or_line(find, name) is None
