"""Tables as people and their programs write them are read alike, or refused in words."""

import codecs
import io
import re
import zipfile

import openpyxl
import pytest

from wsi_umedpt.errors import DataError, ManifestError
from wsi_umedpt.io.spreadsheet import read_table, to_number

ROWS = [["slide", "patient", "mpp"], ["S1", "007", "0.25"], ["S2", "Jürgen", ""]]
FOUND = {2: {"slide": "S1", "patient": "007", "mpp": "0.25"}, 3: {"slide": "S2", "patient": "Jürgen", "mpp": ""}}


def text_of(rows, delimiter=",", end="\n"):
    return "".join(delimiter.join(row) + end for row in rows)


def workbook(rows, sheets=1):
    """Bytes of a workbook whose first sheet has the rows."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for _ in range(sheets - 1):
        book.create_sheet().append(["other"])
    held = io.BytesIO()
    book.save(held)
    return held.getvalue()


def read(tmp_path, content, **options):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **({"needed": ["slide"], "optional": ["patient", "mpp"]} | options))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(text_of(ROWS), id="commas"),
        pytest.param(text_of(ROWS, ";"), id="semicolons"),
        pytest.param(text_of(ROWS, "\t"), id="tabs"),
        pytest.param(text_of(ROWS, end="\r\n"), id="windows-line-ends"),
        pytest.param(codecs.BOM_UTF8 + text_of(ROWS).encode(), id="utf-8-with-its-mark"),
        pytest.param(text_of(ROWS, "\t").encode("utf-16"), id="utf-16-as-excel-writes-unicode-text"),
        pytest.param(codecs.BOM_UTF16_BE + text_of(ROWS).encode("utf-16-be"), id="utf-16-big-endian"),
        pytest.param(text_of(ROWS).encode("utf-16-le"), id="utf-16-without-a-mark"),
        pytest.param(workbook(ROWS), id="xlsx"),
        pytest.param(
            workbook([["slide", "patient", "mpp"], ["S1", "007", 0.25], ["S2", "Jürgen", None]]), id="xlsx-numbers"
        ),
        pytest.param(workbook(ROWS, sheets=3), id="the-first-sheet"),
        pytest.param(text_of([*ROWS, ["", "", ""], [], [" ", ""]]), id="empty-rows-at-the-end"),
        pytest.param(workbook([*ROWS, [None, ""], [" "]]), id="and-of-a-sheet"),
        pytest.param(text_of([[*row, "", ""] for row in ROWS]), id="empty-columns"),
        pytest.param(text_of([[" Slide ", "PATIENT", "Mpp"], *ROWS[1:]]), id="headers-in-any-case-with-blanks"),
        pytest.param(
            text_of([["slide", "Patient ID", "\ufeffmpp\u200b"], *ROWS[1:]]), id="another-name-and-invisible-signs"
        ),
        pytest.param(text_of([["slide", "patient-id", "MPP"], *ROWS[1:]]), id="dashes"),
        pytest.param(text_of([[f"  {cell} " for cell in row] for row in ROWS]), id="blanks-around-cells"),
        pytest.param(text_of([["", *ROWS[0]], ["0", *ROWS[1]], ["1", *ROWS[2]]]), id="numbered-rows-as-pandas-writes"),
    ],
)
def test_a_table_is_the_same_however_it_was_written(tmp_path, content):
    """Delimiter, encoding, program, case and blanks change nothing; text stays text, zeros and all."""
    assert read(tmp_path, content).rows == FOUND


def test_rows_are_counted_as_in_the_file(tmp_path):
    """With the line that tells Excel the delimiter, and empty ones between."""
    assert [*read(tmp_path, "sep=;\r\nslide;patient\r\nS1;P1\r\n;\r\nS2;P2\r\n").rows] == [3, 5]


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        pytest.param("patients", "patient", id="plural"),
        pytest.param("pateint", "patient", id="swapped"),
        pytest.param("patient_no", "patient", id="number"),
        pytest.param("Patient Name", "patient", id="name"),
        pytest.param("case_id", "patient", id="as-the-gdc-says"),
        pytest.param("subject", "patient", id="as-statisticians-say"),
        pytest.param("mpp (um/px)", "mpp", id="with-its-unit"),
        pytest.param("mpp_x", "mpp", id="of-one-direction"),
        pytest.param("mmp", "mpp", id="mistyped"),
        pytest.param("sldie_id", "slide_id", id="swapped-letters"),
        pytest.param("slide_name", "slide_id", id="a-name-for-the-slide"),
        pytest.param("folds", "fold", id="plural-of-a-short-one"),
    ],
)
def test_a_column_that_is_nearly_one_of_ours_is_refused(tmp_path, header, meant):
    """What it says would be lost without a word: a scale, a patient, an id that hides a name."""
    content = f"slide,{header}\nS1,x\n"
    with pytest.raises(DataError, match=re.escape(repr(header)) + rf", which is not read: did you mean '{meant}'"):
        read(tmp_path, content, optional=["slide_id", "patient", "mpp", "fold"])


@pytest.mark.parametrize(
    "header",
    ["side", "size", "age", "patient_age", "fold_change", "mass", "time", "rate", "stain", "Slide label", "grade"],
)
def test_columns_of_another_kind_are_let_be(tmp_path, header):
    """Clinical tables have many; they are listed as not read."""
    table = read(tmp_path, f"slide,{header}\nS1,x\n", optional=["slide_id", "patient", "mpp", "fold", "site", "mask"])
    assert table.others == (header,)
    assert table.columns == ("slide",)


def test_nothing_is_near_what_is_there(tmp_path):
    """A table that names its patients may have a column of cases beside."""
    table = read(tmp_path, "slide,patient,case_id,patients\nS1,P1,c,2\n")
    assert table.rows[2]["patient"] == "P1"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(
            "slide,mpp\nS1,0,25\n", "row 2 has more cells than the header .3, not 2.*decimal point", id="comma"
        ),
        pytest.param("a,b\n1,2\n", "has no column slide; it has a, b$", id="no-column"),
        pytest.param(
            "file,b\n1,2\n", "has no column slide; it has file, b. Did you mean 'file'", id="what-others-call-it"
        ),
        pytest.param("slides,b\n1,2\n", "Did you mean 'slides'", id="nearly-what-is-needed"),
        pytest.param(
            "slide,patient,Patient\nS1,a,b\n", "several columns patient .'patient' and 'Patient'.*row 2", id="twice"
        ),
        pytest.param("slide,patient,patient_id\nS1,a,b\n", "several columns patient", id="by-two-names"),
        pytest.param('slide,b\n"S1,2\nS2,3\n', "cannot be read as a table", id="a-quote-never-closed"),
        pytest.param(b"slide,b\nS\xfc1,2\n", "it is no UTF-8 .*save it as CSV UTF-8", id="latin-1"),
        pytest.param(b"\xd0\xcf\x11\xe0 old", "an old Excel file", id="xls"),
        pytest.param(b"PK\x03\x04 nothing", "no workbook", id="a-zip-that-is-none"),
        pytest.param(b"slide,b\nS1,\x00\n", "bytes of 0", id="binary"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("\n\n , \n", "is empty", id="blanks-alone"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, content, why):
    """The file, what is wrong, and what to do."""
    with pytest.raises(DataError, match=why):
        read(tmp_path, content)


def test_columns_that_say_the_same_twice_are_one(tmp_path):
    """As joined tables have them."""
    assert read(tmp_path, "slide,patient,patient_id\nS1,P1,P1\n").rows[2]["patient"] == "P1"


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path):
    """By the error that the caller asks for."""
    with pytest.raises(ManifestError, match="there is no such file"):
        read_table(tmp_path / "none.csv", error=ManifestError)
    with pytest.raises(ManifestError, match="it is no file"):
        read_table(tmp_path, error=ManifestError)


def test_cells_of_a_sheet_are_what_its_reader_sees(tmp_path):
    """Zeros that a format shows, whole numbers without a point, dates, truth, and errors as text."""
    book = openpyxl.Workbook()
    book.active.append(["slide", "patient", "age", "died", "seen", "site"])
    book.active.append(["S1", 7, 61.0, True, 0.1, "#N/A"])
    book.active["B2"].number_format = "0000"
    book.save(tmp_path / "t.xlsx")
    row = read_table(tmp_path / "t.xlsx", needed=["slide"], optional=["patient", "site"]).rows[2]
    assert row == {"slide": "S1", "patient": "0007", "site": "#N/A", "age": "61", "died": "TRUE", "seen": "0.1"}


def test_a_formula_that_was_never_calculated_is_refused(tmp_path):
    """Its cell would read as empty."""
    with pytest.raises(DataError, match="formula in row 2 was never calculated"):
        read(tmp_path, workbook([["slide", "patient"], ["S1", "=A2"]]))


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    """Before it is unpacked."""
    monkeypatch.setattr("wsi_umedpt.io.spreadsheet._MOST_BYTES", 1 << 20)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b" " * (2 << 20))
    with pytest.raises(DataError, match="unpacks to more than 1 MB"):
        read(tmp_path, held.getvalue())


def test_entities_of_a_workbook_are_not_expanded(tmp_path):
    """A sheet that declares some is refused."""
    source, held = io.BytesIO(workbook(ROWS)), io.BytesIO()
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(held, "w") as changed:
        for member in whole.namelist():
            content = whole.read(member)
            if member.endswith("sheet1.xml"):
                content = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + content.replace(b"S1", b"&b;")
            changed.writestr(member, content)
    with pytest.raises(DataError, match="no workbook"):
        read(tmp_path, held.getvalue())


@pytest.mark.parametrize(("text", "value"), [("0.25", 0.25), ("-3", -3.0), ("1e3", 1000.0)])
def test_numbers_are_read(text, value):
    """With a decimal point."""
    assert to_number(text) == value


@pytest.mark.parametrize(
    ("text", "why"), [("0,25", r"'0,25' is no number; write a decimal point, 0\.25"), ("x", "'x' is no number$")]
)
def test_a_decimal_comma_is_refused_with_what_to_write(text, why):
    """0,25 may be 0.25 or two cells; nothing is guessed."""
    with pytest.raises(ValueError, match=why):
        to_number(text)
