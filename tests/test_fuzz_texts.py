"""Any text gives a cell or one line of error; nothing is run, and no text takes long.

`test_dialects.py` says what each reader promises; here they are given what nobody would write.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fuzz_tools import examples, one_line
from hypothesis import given
from hypothesis import strategies as st

from darts_lib.derivation import derive, one_hot_alphas, random_genotype
from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.cell_choice import find_genotype
from darts_lib.formats.dialects import DIALECTS, main, read, write
from darts_lib.genotype import LIMIT, PUBLISHED, Genotype, GenotypeError, literal_fields
from darts_lib.recurrent.genotype import PUBLISHED as RECURRENT
from darts_lib.recurrent.genotype import RecurrentGenotype
from darts_lib.recurrent.genotype import find_genotype as find_recurrent
from darts_lib.search_space import KINDS, edges

V2 = PUBLISHED["DARTS_V2"]
OLDER_NNI = json.dumps(
    {
        f"{kind}_{name}": value
        for kind in KINDS
        for name, value in {
            "n2_switch": [0, 1], "n2_p0": 0, "n2_p1": "maxpool",
            "n3_switch": ["KIND_n3_p0", 2], "n3_p0": [3], "n3_p1": [], "n3_p2": "sepconv5x5",
        }.items()
    }
).replace('"KIND', '"normal')  # fmt: skip
CELLS = [
    *(write(V2, dialect) for dialect in DIALECTS),
    OLDER_NNI,
    str(random_genotype(3, 2)).replace("[2, 3]", "range(2, 4)"),
]
RECURRENT_CELLS = [str(cell) for cell in RECURRENT.values()]

Reader = Callable[[str], object]


READERS: dict[str, Reader] = {
    "recognised": read,
    **{name: functools.partial(read, dialect=name) for name in DIALECTS},
    "from_text": Genotype.from_text,
    "recurrent": RecurrentGenotype.from_text,
    "find": find_genotype,
    "find recurrent": find_recurrent,
}


def read_by_all(text: str) -> None:
    """Check that each reader returns a cell that comes back, or raises one line."""
    for name, reader in READERS.items():
        try:
            cell = reader(text)
        except (GenotypeError, SettingsError) as error:
            one_line(error)
            continue
        assert isinstance(cell, Genotype | RecurrentGenotype), name
        assert type(cell).from_text(str(cell)) == cell
        assert type(cell).from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


PARTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *"()[]{}:,'\"#&*!-|>?%@`=.+~\\;\0\ufeff\u2028\xa0\ud800\t",
            *("\n", "\n  ", "\r\n", "\x85", "0x9", "1e999", "null", "<<", "range(", "p9", "---"),
            *("!!python/object/apply:os.system ['x']", "&a", "*a", "<<: *a", "lambda: 0", "f'{1}'"),
            *("NaN", "Infinity", "-1", "True", "9" * 5000, "0x" + "f" * 5000, "1:" * 99, "b'x'"),
            *("1j", "0x" + "f" * 400 + "+1j", "set()", "__import__(0)", "...", "await x"),
            *("normal=[],", "normal_concat=range(2, 6, x=1),", '"normal": 1,', "normal_n2: 1\n"),
            *("sep_conv_3x3", "none", "tanh", "KIND", "chosen", "_switch", "normal/op_2_0"),
        ]
    ),
)


@st.composite
def nearly(draw: st.DrawFn, texts: list[str]) -> str:
    """Draw a valid text with a few places deleted, inserted, replaced, swapped or repeated."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        other = draw(st.integers(0, len(text)))
        piece = text[start:end]
        text = draw(
            st.sampled_from(
                [
                    text[:start] + text[end:],
                    text[:start] + piece + text[start:],
                    text[:start] + text[start:end][::-1] + text[end:],
                    text[:other] + piece + text[other:],
                ]
            )
            | st.builds(lambda part, a=start, b=end, t=text: t[:a] + part + t[b:], PARTS)
        )
    return text


@given(text=nearly(CELLS))
@examples(120)
def test_nearly_a_cell(text: str) -> None:
    read_by_all(text)


@given(text=nearly(RECURRENT_CELLS))
@examples(50)
def test_nearly_a_recurrent_cell(text: str) -> None:
    read_by_all(text)


@given(parts=st.lists(PARTS, max_size=12))
@examples(50)
def test_any_text(parts: list[str]) -> None:
    text = "".join(parts)
    starts = ("", "Genotype(", "Genotype(normal=[", '{"normal/op_2_0": ', "normal_n2:\n  chosen: ")
    for start in starts:
        read_by_all(start + text)


# Nothing is run ---------------------------------------------------------------------------------

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
    "Genotype(normal=[x for x in [open('{mark}', 'w')]])",
    'Genotype(normal=f\'{{open("{mark}", "w")}}\')',
    "Genotype(normal=(lambda: open('{mark}', 'w'))())",
    "Genotype(normal=(y := open('{mark}', 'w')))",
    "Genotype.__class__(normal=open('{mark}', 'w'))",
    "(lambda Genotype: open('{mark}', 'w'))(1)",
    "Genotype(normal=1)\nopen('{mark}', 'w')",
    "Genotype(normal='%s' % open('{mark}', 'w'))",
    '{{"normal": {{"__class__": "os.system", "args": ["touch {mark}"]}}}}',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_run(text: str, tmp_path: Path) -> None:
    mark = tmp_path / "hostile"
    for reader in READERS.values():
        with pytest.raises((GenotypeError, SettingsError)):
            reader(text.format(mark=mark))
    assert not mark.exists()


# Deep, long, and many ---------------------------------------------------------------------------

DEEP = [
    *(opening * 2500 for opening in "([{-~?"),
    *(opening * 2500 for opening in ("- ", "? ", "not ", "lambda:", "a if b else ")),
    *(opening * 2500 for opening in ('{"a":', "[a,", "a[")),
    *("Genotype(normal=" + part * 1500 for part in ("[", "(", "-", "1+", "1,", "a.", "f()", "{1:")),
    "Genotype(normal=" + "f'{" * 200,
    "Genotype(normal=a" + "()" * 1500 + ")",
    "Genotype(normal=a" + ".b" * 1500 + ")",
    "Genotype(normal=1" + "+1" * 1500 + ")",
    "Genotype(normal=1" + "**1" * 1500 + ")",
    "Genotype(normal=1" + "<1" * 1500 + ")",
    "Genotype(normal=" + "[" * 90 + "]" * 90 + ")",
    "Genotype(normal='" + "\\N{DIGIT ONE}" * 5000 + "')",
    "Genotype(" + ", ".join(f"a{i}=1" for i in range(9000)) + ")",
    "Genotype(" + "a=1," * 20_000 + ")",
    "Genotype(normal=[" + "('sep_conv_3x3', 0)," * 1500 + "], normal_concat=[" + "2," * 1500 + "])",
    '{"chosen": ' + "[" * 1500 + "]" * 1500 + "}",
    "{" + ", ".join(f'"a{i}": 1' for i in range(7000)) + "}",
    "\n".join(f"normal_n{i}: {{chosen: [a]}}" for i in range(2000)),
    "chosen: " + "[" * 900 + "]" * 900,
    "chosen: [" + "{a: [" * 300 + "]}" * 300 + "]",
    "normal_n2: {chosen: [" + "a," * 1500 + "]}",
    "? " + "[chosen: 1]" * 2000,
    "chosen: " + "1:" * 40_000 + "1",
    "chosen: " + "1_" * 40_000,
    "chosen: " + " #" * 45_000 + "'",
    "chosen:" + " " * 90_000 + "'",
    "chosen: '" + "''" * 40_000,
    'chosen: "' + "\\\n" * 40_000,
    "chosen: |" + "\n " * 40_000,
    "Genotype" + "[" + " " * 90_000 + "[",
    "Genotype" + "[ " * 45_000,
    "chosen" + " " * 90_000,
    " " * LIMIT,
    "\n" * LIMIT,
    "\0" * LIMIT,
    "\U0001f600" * LIMIT,
    "chosen: {" + ", ".join(f"a{i}: 1" for i in range(2000)) + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_and_long_texts_are_refused_at_once(text: str) -> None:
    text = text[:LIMIT]
    started = time.process_time()
    read_by_all(text)
    taken = time.process_time() - started
    # Not a measure of the machine: what was wrong once took minutes, or longer than anyone waits.
    assert taken < 30


def test_laughs_are_not_multiplied() -> None:
    """Each line would be ten copies of the one before: anchors are refused, and so are copies."""
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 12))]
    for text in ("\n".join(lines), "chosen: [b\xa0# , &a [x], " + "*a, " * 99 + "]"):
        with pytest.raises(GenotypeError, match="'&' has no place"):
            read(text, "mmrazor")


@pytest.mark.parametrize("reader", [Genotype.from_text, RecurrentGenotype.from_text, find_genotype])
def test_a_text_without_end_is_not_parsed(reader: Reader) -> None:
    with pytest.raises(GenotypeError, match="more than 100000 characters"):
        reader("Genotype(" + "a=1," * LIMIT)


# Names that come twice --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "normal_n2: {chosen: [a, b], chosen: [c, d]}",
        "{normal_n2: {chosen: [a]}, normal_n2: {chosen: [b]}}",
        "normal_n2: {chosen: [a]}\n'normal_n2': {chosen: [b]}",
        'normal_n2: {chosen: [a]}\n"normal_n2" : {chosen: [b]}',
        "normal_n2: {chosen: [a]}\n? normal_n2\n: {chosen: [b]}",
        "normal_n2:\n  chosen: [a]\n  chosen: [b]",
    ],
)
def test_a_name_that_comes_twice_in_yaml_is_refused_however_it_is_written(text: str) -> None:
    with pytest.raises(GenotypeError, match=r"mmrazor: line \d: .* is there again, first on"):
        read(text, "mmrazor")


@pytest.mark.parametrize("text", [str(V2), write(V2, "pt.darts")])
def test_a_field_that_comes_twice_in_a_genotype_is_refused(text: str) -> None:
    twice = text.replace("reduce_concat=", "normal_concat=[2], reduce_concat=")
    with pytest.raises(GenotypeError, match="field 'normal_concat' is there more than once"):
        read(twice)
    with pytest.raises(GenotypeError, match="field 'concat' is there more than once"):
        RecurrentGenotype.from_text("Genotype(recurrent=[('tanh', 0)], concat=[1], concat=[1])")


def test_a_range_with_more_than_two_bounds_is_refused() -> None:
    for more in ("range(2, 6, 1)", "range(2, 6, x=1)", "range(2, stop=6)", "range(6)", "range()"):
        with pytest.raises(GenotypeError, match="'normal_concat' at line 1, column"):
            Genotype.from_text(str(V2).replace("[2, 3, 4, 5]", more, 1))


# Files ------------------------------------------------------------------------------------------


@given(content=st.binary(max_size=60) | nearly([write(V2, "json"), "[" * 1500]).map(
    lambda text: text.encode("utf-8", "surrogatepass")
))  # fmt: skip
@examples(60)
def test_a_file_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = _folder(tmp_path_factory) / "genotype.json"
    file.write_bytes(content)
    for find in (find_genotype, find_recurrent):
        for name in (str(file), str(file.parent)):
            try:
                find(name)
            except (GenotypeError, SettingsError) as error:
                one_line(error)
    for target in ("original", "mmrazor"):
        try:
            main(["convert", str(file), "--to", target])
        except SystemExit as end:
            assert end.code == 1  # noqa: PT017


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "cells"
    folder.mkdir(exist_ok=True)
    return folder


@given(
    name=st.text(max_size=20) | st.sampled_from(["~\0", "~\ud800", "\ud800", "~x/\0", "//", "."])
)
@examples(60)
def test_any_name(name: str) -> None:
    for find, published in ((find_genotype, PUBLISHED), (find_recurrent, RECURRENT)):
        if name not in {"random", *published}:  # hypothesis tries the library's own words too
            with pytest.raises((GenotypeError, SettingsError)) as caught:
                find(name)
            one_line(caught.value)


# Alphas -----------------------------------------------------------------------------------------


@given(data=st.data(), nodes=st.integers(1, 3), most=st.none() | st.integers(0, 3))
@examples(40)
def test_alphas_of_any_numbers_give_a_cell_or_one_line(
    data: st.DataObject, nodes: int, most: int | None
) -> None:
    rows = len(edges(nodes))
    values = st.lists(st.floats(width=32), min_size=8 * rows, max_size=8 * rows)
    alphas = {kind: torch.tensor(data.draw(values)).view(rows, 8) for kind in KINDS}
    try:
        cell = derive(alphas, max_skip=most)
    except GenotypeError as error:
        one_line(error, "not finite")
    else:
        assert most is None or cell.skips() <= most
        assert derive(one_hot_alphas(cell)).normal_concat == cell.normal_concat


def test_an_operation_outside_the_search_space_has_no_alphas() -> None:
    cell = Genotype.from_text(
        "Genotype(normal=[('sep_conv_7x7', 0), ('skip_connect', 1)], normal_concat=[2], "
        "reduce=[('sep_conv_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
    )
    with pytest.raises(GenotypeError, match="normal: 'sep_conv_7x7' has no place"):
        one_hot_alphas(cell)


def test_numbers_that_python_cannot_handle_are_refused_as_texts() -> None:
    huge = "0x" + "f" * 5000
    for value in (huge, f"[{huge}]", f"[('tanh', {huge})]", "0x" + "f" * 400 + " + 1j"):
        for field in ("recurrent", "concat"):
            text = f"Genotype(recurrent=[('tanh', 0)], concat={value})"
            if field == "recurrent":
                text = f"Genotype(recurrent={value}, concat=[1])"
            with pytest.raises(GenotypeError) as caught:
                RecurrentGenotype.from_text(text)
            one_line(caught.value)
    assert literal_fields("Genotype(a=[1])") == {"a": [1]}
