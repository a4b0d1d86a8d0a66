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
from darts_lib.formats.dialects import DIALECTS, WRITTEN, read, write
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


def read_by_all(text: str) -> int:
    """Return how many readers find a cell, which comes back; the others must refuse in a line."""
    found = 0
    for reader in READERS:
        try:
            cell = reader(text)
        except (GenotypeError, SettingsError) as error:
            one_line(error)
        else:
            assert isinstance(cell, Genotype | RecurrentGenotype)
            assert type(cell).from_text(str(cell)) == cell
            assert type(cell).from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
            found += 1
    return found


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
@examples(150)
def test_nearly_a_cell(text: str) -> None:
    read_by_all(text)


HOSTILE = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "normal_n2: {{chosen: !!python/object/apply:subprocess.check_output [[touch, {mark}]]}}",
    "chosen: \xa0# !!python/object/apply:os.system ['touch {mark}']",
    "%TAG ! tag:yaml.org,2002:python/\n---\nchosen: !object/apply:os.system ['touch {mark}']",
    "Genotype(normal=open('{mark}', 'w'))",
    "Genotype(normal=[(open('{mark}', 'w'), 0)], **{{'a': open('{mark}', 'w')}})",
    'Genotype(normal=f\'{{open("{mark}", "w")}}\')',
    "Genotype.__class__(normal=open('{mark}', 'w'))",
    "(lambda Genotype: open('{mark}', 'w'))(1)",
    "Genotype(normal=1)\nopen('{mark}', 'w')",
    "Genotype(normal=[[(__import__('os').system('touch {mark}'), 0)]])",
    '{{"normal": {{"__class__": "os.system", "args": ["touch {mark}"]}}}}',
]


def test_no_text_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "hostile"
    for text in HOSTILE:
        assert read_by_all(text.format(mark=mark)) == 0, text
        assert not mark.exists(), text


IN_GENOTYPE = ("[", "(", "-", "1+", "1,", "a.", "f()", "{1:")
OPENINGS = (*"([{-~?", "- ", "? ", "not ", "lambda:", "a if b else ", '{"a":', "[a,", "a[")
DEEP = [
    *(opening * 2500 for opening in OPENINGS),
    *("Genotype(normal=" + part * 1500 for part in IN_GENOTYPE),
    *("Genotype(normal=a" + part * 1500 + ")" for part in ("()", ".b", "+1", "**1", "<1")),
    "Genotype(normal=" + "f'{" * 200,
    "Genotype(normal=" + "[" * 90 + "]" * 90 + ")",
    "Genotype(normal='" + "\\N{DIGIT ONE}" * 5000 + "')",
    "Genotype(" + "a=1," * 20_000 + ")",
    "Genotype(normal=[" + "('sep_conv_3x3', 0)," * 1500 + "], normal_concat=[" + "2," * 1500 + "])",
    *("Genotype" + part for part in ("[" + " " * 90_000 + "[", "[ " * 45_000)),
    '{"chosen": ' + "[" * 1500 + "]" * 1500 + "}",
    "\n".join(f"normal_n{i}: {{chosen: [a]}}" for i in range(2000)),
    *("chosen: " + text for text in (
        "{" + ", ".join(f"a{i}: 1" for i in range(2000)) + "}", "[" * 900 + "]" * 900,
        "[" + "{a: [" * 300 + "]}" * 300 + "]", "1:" * 40_000 + "1", "1_" * 40_000 + "1",
        " #" * 45_000 + "'", " " * 90_000 + "'", "'" + "''" * 40_000, '"' + "\\\n" * 40_000,
        "|" + "\n " * 40_000,
    )),
    "normal_n2: {chosen: [" + "a," * 1500 + "]}",
    *(part * LIMIT for part in (" ", "\n", "\0", "\U0001f600")),
]  # fmt: skip


HEX = "0x" + "f" * 9000
HUGE = (HEX, f"[{HEX}]", f"[('tanh', {HEX})]", "0x" + "f" * 400 + " + 1j")
REST = "normal_concat=[2], reduce=[], reduce_concat=[2])"
ODD = [
    f"chosen: {HEX}",
    "chosen: " + "1:" * 900 + "1.5",
    *(f"Genotype(normal=[{x}], {REST}" for x in (HEX, f"[('a', 0), ('b', {HEX})]")),
    f"Genotype(normal=[('\u2028', 0)], {REST}",
    '{"normal/op_2_0": ' + "9" * 5000 + "}",
    '{"normal": "' + "a" * 9000 + '", "normal_concat": 2, "reduce": 1, "reduce_concat": 2}',
    *("normal_n2: {chosen: [[1], {a: b}]}", "? [a]\n: chosen", "normal_n2: &a {chosen: *a}"),
    *("\ud800", "normal_n2: \ud800"),
    *(f"Genotype(recurrent={huge}, concat=[1])" for huge in HUGE),
    *(f"Genotype(recurrent=[('tanh', 0)], concat={huge})" for huge in HUGE),
    *("Genotype(normal=" + part * 900 + "1)" for part in ("-", "1+")),
]


LATER = [pytest.param(text, marks=pytest.mark.deep) for text in DEEP]


@pytest.mark.parametrize("text", [*ODD, *LATER], ids=range(len(ODD) + len(DEEP)))
def test_odd_deep_and_long_texts_are_refused_at_once(text: str) -> None:
    started = time.process_time()
    assert read_by_all(text[:LIMIT]) == 0
    # Not a measure of the machine: what was wrong once took minutes, or longer than anyone waits.
    assert time.process_time() - started < 30


def test_laughs_are_not_multiplied() -> None:
    # Each line would be ten copies of the one before: anchors are refused, and so are copies.
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 12))]
    for text in ("\n".join(lines), "chosen: [b\xa0# , &a [x], " + "*a, " * 99 + "]"):
        with pytest.raises(GenotypeError, match="copy has no place"):
            read(text, "mmrazor")
    for reader in (Genotype.from_text, RecurrentGenotype.from_text, find_genotype):
        with pytest.raises(GenotypeError, match="more than 100000 characters"):
            reader("Genotype(" + "a=1," * LIMIT)
