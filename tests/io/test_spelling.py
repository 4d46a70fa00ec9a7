"""Names that people wrote in two ways are one."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.io.spelling import identity, is_missing, quoted, several_spellings, spelled


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("P1", "p1", id="case"),
        pytest.param("Straße", "STRASSE", id="case-that-changes-length"),
        pytest.param("\uff30\uff11", "P1", id="full-width"),
        pytest.param("Mu\u0308ller", "M\u00fcller", id="composed-or-not"),
        pytest.param("P\u200b1", "P1", id="zero-width-space"),
        pytest.param("\ufeffP1", "P1", id="byte-order-mark"),
        pytest.param("P\u00ad1", "P1", id="soft-hyphen"),
        pytest.param("\u202aP1\u202c", "P1", id="marks-of-direction"),
        pytest.param("P1\ufe0f", "P1", id="variation-selector"),
        pytest.param("P\u00a01", "P 1", id="no-break-space"),
        pytest.param("P  1 ", "P 1", id="blanks"),
        pytest.param("P\u20131", "P-1", id="dash-of-a-word-processor"),
        pytest.param("P\u22121", "P-1", id="minus"),
        pytest.param("007", "7", id="leading-zeros"),
        pytest.param("P-007/02", "P-7/2", id="zeros-within"),
        pytest.param("12.0", "12", id="as-pandas-writes-numbers-with-gaps"),
    ],
)
def test_spellings_of_one_patient_are_one(one, other):
    """Whatever a keyboard, a spreadsheet or a word processor did to it."""
    assert identity(one) == identity(other)
    assert several_spellings(["x", one, "y", other, one]) == [[one, other]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("P1", "P10", id="zero-at-the-end"),
        pytest.param("P1", "P2", id="digit"),
        pytest.param("100", "1", id="hundred"),
        pytest.param("P1.05", "P1.5", id="fraction"),
        pytest.param("A-1", "A1", id="dash-or-none"),
        pytest.param("0", "", id="nothing-is-not-zero"),
        pytest.param("日本", "中国", id="other-letters"),
    ],
)
def test_patients_that_differ_stay_two(one, other):
    """Nothing that a reader counts as a difference is taken away."""
    assert identity(one) != identity(other)
    assert several_spellings([one, other]) == []


@given(st.text(max_size=20))
def test_spelling_is_a_normal_form(name):
    """Done twice it is done once, and how a text is composed does not matter."""
    assert spelled(spelled(name)) == spelled(name)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert spelled(unicodedata.normalize(form, name)) == spelled(name)


def test_slides_keep_their_zeros():
    """Slides 01 and 1 may lie in one folder; only patients are compared by numbers."""
    assert spelled("01") != spelled("1")


@pytest.mark.parametrize(
    "cell",
    [
        "NA",
        "#N/A",
        "None",
        "Not Reported",
        "Unknown",
        "'--",
        "--",
        "[Not Available]",
        "n/a",
        "NaN",
        "null",
        "#REF!",
        "?",
    ],
)
def test_words_for_nothing_known_are_missing(cell):
    """As R, Excel, pandas, the GDC and people write them."""
    assert is_missing(cell)


@pytest.mark.parametrize("cell", ["", "0", "no", "negative", "Nancy", "normal", "None of these", "+"])
def test_other_words_are_not(cell):
    """No and nought are answers, and an empty cell is not a word."""
    assert not is_missing(cell)


def test_words_of_everyday_language_may_name_a_class():
    """A class of tiles can be called none; that of a spreadsheet's error cannot."""
    assert not is_missing("none", words=False)
    assert is_missing("#N/A", words=False)


def test_what_looks_the_same_is_escaped():
    """Else a refusal would name the same twice."""
    assert quoted(["P1", "p1"]) == "'P1' and 'p1'"
    assert quoted(["M\u00fcller", "Mu\u0308ller"]) == r"'M\xfcller' and 'Mu\u0308ller'"
