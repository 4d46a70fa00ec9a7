"""The table of labels: what it means, and that all that is wrong with it is said at once."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.mil_cohorts import Bank
from wsi_umedpt.errors import DataError, MilError
from wsi_umedpt.mil.data.labels_csv import read_cohort
from wsi_umedpt.mil.data.targets import asked

ROWS = [("S1", "P1", "low"), ("S2", "P1", "low"), ("S3", "P2", "high"), ("S4", "P3", "high"), ("S5", "P4", "low")]


def banks(*slides):
    return {slide: Bank(slide, np.zeros((3, 6), np.float32)) for slide in slides or (row[0] for row in ROWS)}


@pytest.fixture
def read(tmp_path):
    """Read a table written out as text or as rows."""

    def made(table, *targets, header="slide,patient,grade", sources=None, **options):
        path = tmp_path / "labels.csv"
        text = table if isinstance(table, str) else "\n".join([header, *(",".join(row) for row in table)])
        path.write_text(text, encoding="utf-8")
        return read_cohort(path, sources or banks(), [asked(t) for t in targets or ("grade",)], **options)

    return made


def column(values, header="grade"):
    """A table of slides with one label each, and the banks they need."""
    rows = [(f"T{n}", f"P{n}", value) for n, value in enumerate(values)]
    return rows, {"header": f"slide,patient,{header}", "sources": banks(*(row[0] for row in rows))}


@pytest.mark.parametrize(
    ("values", "target", "kind", "classes", "first"),
    [
        pytest.param(["no", "yes", "no"], "grade", "binary", ("no", "yes"), 0, id="two-words"),
        pytest.param(["1", "0", "1"], "grade", "binary", ("0", "1"), 1, id="two-numbers"),
        pytest.param(["10", "9", "10"], "grade", "binary", ("9", "10"), 1, id="numbers-in-their-order"),
        pytest.param(["c", "a", "b"], "grade", "multiclass", ("a", "b", "c"), 2, id="three-words"),
        pytest.param([f"{n}.5" for n in range(12)], "grade", "regression", (), 0.5, id="many-numbers"),
        pytest.param(["1", "2", "10"], "grade:ordinal", "ordinal", ("1", "2", "10"), 0, id="numbered-order"),
        pytest.param(["II", "I", "III"], "grade:ordinal(I,II,III)", "ordinal", ("I", "II", "III"), 1, id="named-order"),
        pytest.param(["b", "a"], "grade:binary(b,a)", "binary", ("b", "a"), 0, id="the-second-is-positive"),
        pytest.param(["b", "a"], "grade:multiclass", "binary", ("a", "b"), 1, id="two-classes-are-binary"),
        pytest.param(["日本", "größer", "日本"], "grade", "binary", ("größer", "日本"), 1, id="unicode"),
        pytest.param([" a", "b ", "a"], "grade", "binary", ("a", "b"), 0, id="blanks-around"),
        pytest.param(["1", "2", "3"], "grade:regression", "regression", (), 1.0, id="said-to-be-a-quantity"),
        pytest.param(["NA", "b"], "grade:binary(NA,b)", "binary", ("NA", "b"), 0, id="a-class-called-NA"),
    ],
)
def test_a_kind_is_seen_from_the_labels_or_said(read, values, target, kind, classes, first):
    """And classes have an order that is not that of the rows."""
    rows, options = column(values)
    (cohort, _) = read(rows, target, **options)
    found = cohort.targets[0]
    assert (found.kind, found.classes, cohort.truth[0][0, 0]) == (kind, classes, first)


@pytest.mark.parametrize(
    ("values", "target", "why"),
    [
        pytest.param(["1", "2", "3"], "grade", "could be classes, an order or a quantity; say grade:m", id="ambiguous"),
        pytest.param(["1", "2", "3", "x"], "grade:regression", "not numbers, or beyond 1e.30: x", id="word-as-value"),
        pytest.param(["1", "2", "1e39"], "grade:regression", "beyond 1e.30: 1e39", id="beyond-float32"),
        pytest.param(["1", "inf", "-inf"], "grade:regression", "beyond 1e.30: -inf, inf", id="infinite"),
        pytest.param(["4", "4", "4"], "grade:regression", "all values are the same", id="constant-value"),
        pytest.param(["a", "a", "a"], "grade", "cannot have 1 class: a", id="one-class"),
        pytest.param(["", "", ""], "grade", "no slide has a label", id="all-empty"),
        pytest.param(
            ['"1,5"', '"2,5"', "3"], "grade", r"1,5, 2,5 are no numbers; write a decimal point, 1\.5", id="commas"
        ),
        pytest.param(
            ['"1,5"', "2", "3"], "grade:regression", r"1e.30: 1,5; write a decimal point, 1\.5", id="a-comma-in-a-value"
        ),
        pytest.param(
            ["+", "++", "-"], "grade", "is '-' beside [+], [+][+] a class, or no label", id="minus-or-nothing"
        ),
        pytest.param(["High", "high", "low"], "grade", "are these one class. 'High' and 'high'", id="case"),
        pytest.param(["1", "01", "2"], "grade:multiclass", "are these one class. '01' and '1'", id="zeros"),
        pytest.param(["lo\u200bw", "low", "x"], "grade", r"one class. 'low' and 'lo\\u200bw'", id="invisible"),
        pytest.param(["Ⅱ", "II", "I"], "grade", "one class. 'II' and 'Ⅱ'|one class. 'II' and '.u2161'", id="nfkc"),
        pytest.param(["HIGH", "low"], "grade:binary(low,high)", "one class. 'HIGH' and 'high'", id="case-in-brackets"),
        pytest.param(["a", "b", "c"], "grade:binary", "binary cannot have 3 classes: a, b, c", id="three-of-two"),
        pytest.param(["a", "b", "c"], "grade:binary(a,b)", "c is none of its classes a, b", id="unknown-class"),
        pytest.param(["I", "II", "III"], "grade:ordinal", r"say the order.*grade:ordinal\(I,II,III\)", id="no-order"),
        pytest.param([f"x{n}" for n in range(51)], "grade", "cannot have 51 classes", id="names-as-classes"),
        pytest.param(["0", "1", "2"], "m:multilabel(grade)", "labels are 0, 1 or empty", id="label-of-2"),
    ],
)
def test_labels_that_mean_nothing_clear_are_refused(read, values, target, why):
    """With what to write instead; nothing is guessed."""
    rows, options = column(values)
    with pytest.raises(MilError, match=why):
        read(rows, target, **options)


@pytest.mark.parametrize(
    ("rows", "target", "why"),
    [
        pytest.param([("5", "1"), ("0", "1"), ("3", "0")], "os:cox(d,e)", "times must be above 0", id="time-0"),
        pytest.param([("5", "1"), ("4", "1"), ("3", "2")], "os:cox(d,e)", "events 0 or 1", id="event-2"),
        pytest.param([("5", "1"), ("4", "0"), ("3", "0")], "os:discrete(d,e)", "fewer than two events", id="one-event"),
        pytest.param([("5", "dead"), ("4", "1")], "os:cox(d,e)", "column e: not numbers.*dead", id="words"),
        pytest.param([("5", "1"), ("4", "1")], "os:discrete(d,e,1)", "2 to 50 intervals, got 1", id="one-interval"),
        pytest.param([("5", "1"), ("4", "1")], "os:discrete(d,e,x)", "'x' is no number of intervals", id="no-number"),
    ],
)
def test_survival_that_cannot_be_is_refused(read, rows, target, why):
    """Times, events, intervals."""
    named = [(f"T{n}", f"P{n}", *row) for n, row in enumerate(rows)]
    with pytest.raises(MilError, match=why):
        read(named, target, header="slide,patient,d,e", sources=banks(*(row[0] for row in named)))


def test_labels_may_be_missing(read):
    """An empty cell is no label, of one target or of all; survival needs both its cells."""
    rows = [(f"T{n}", f"P{n}", *row) for n, row in enumerate([
        ("a", "5", "1", "1", ""), ("", "", "0", "", ""), ("b", "7", "", "0", "1"), ("a", "9", "1", "", "0"),
    ])]  # fmt: skip
    cohort, _ = read(
        rows, "grade", "os:cox(days,died)", "m:multilabel(er,pr)",
        header="slide,patient,grade,days,died,er,pr", sources=banks(*(row[0] for row in rows)),
    )  # fmt: skip
    grade, survival, markers = cohort.truth
    nan = np.nan
    np.testing.assert_array_equal(grade[:, 0], [0, nan, 1, 0])
    np.testing.assert_array_equal(survival, [[5, 1], [nan, nan], [nan, nan], [9, 1]])
    np.testing.assert_array_equal(markers, [[1, nan], [nan, nan], [0, 1], [nan, 0]])


@pytest.mark.parametrize(
    ("unit", "cases", "bags"),
    [
        pytest.param("slide", ["S1", "S2", "S3", "S4", "S5"], 5, id="a-slide-is-a-case"),
        pytest.param("union", ["P1", "P2", "P3", "P4"], 4, id="a-patients-slides-are-a-bag"),
        pytest.param("late", ["P1", "P2", "P3", "P4"], 5, id="a-patients-slides-are-averaged"),
    ],
)
def test_units(read, unit, cases, bags):
    """What a case is, what a bag is, and that the truth has a row a case."""
    cohort, _ = read(ROWS, unit=unit)
    assert [c.case_id for c in cohort.cases] == cases
    assert [c.patient for c in cohort.cases] == (["P1", "P1", "P2", "P3", "P4"] if unit == "slide" else cases)
    assert len(cohort.items) == bags
    assert len(cohort.truth[0]) == len(cases)
    assert sorted(s for item in cohort.items for s in item.slides) == sorted(row[0] for row in ROWS)


@pytest.mark.parametrize("unit", ["union", "late"])
@pytest.mark.parametrize("other", ["high", ""], ids=["another", "none"])
def test_a_patients_slides_have_one_label(read, unit, other):
    """Of a slide each they may differ; of a patient they may not, and a cell that is empty is a difference."""
    rows = [("S1", "P1", "low"), ("S2", "P1", other), *ROWS[2:]]
    with pytest.raises(MilError, match="target grade: the slides of 'P1' have different labels: S1, S2"):
        read(rows, unit=unit)
    assert len(read(rows)[0]) == 5


@pytest.mark.parametrize("unit", ["union", "late"])
def test_a_patient_without_any_label_has_none(read, unit):
    """Two empty cells are no contradiction."""
    cohort, _ = read([("S1", "P1", ""), ("S2", "P1", ""), *ROWS[2:]], unit=unit)
    np.testing.assert_array_equal(cohort.truth[0][:, 0], [np.nan, 0, 0, 1])


def test_everything_that_is_wrong_is_said_at_once(read):
    """So that a table is mended in one go."""
    sources = banks()
    sources["S4"] = replace(sources["S4"], kind=replace(sources["S4"].kind, dim=8, mpp=0.5))
    table = """slide,patient,grade,age,fold
        S1,P1,low,50,a
        S2,P1,high,x,b
        S3,P2,high,61,a
        S3,P2,high,61,a
        S4,,low,70,
        ,P5,low,44,a
        S9,P6,low,33,b"""
    with pytest.raises(MilError) as refused:
        read(table.replace(" ", ""), "grade", "grade", "age:regression", sources=sources, unit="late")
    text = str(refused.value)
    for part in (
        "rows 4 and 5 are of the same slide 'S3'",
        "row 6 names no patient",
        "row 7 names no slide",
        "patient 'P1' is in several folds: 'a', 'b'",
        "1 row names no fold, the others do",
        "target grade is asked for twice",
        "1 slide has no features: S9. Features there: S1, S2, S3, S4, S5. Embed them, or leave them out",
        "1 slide has mpp 0.5 instead of not stated; dim 8 instead of 6: S4",
        "the slides of 'P1' have different labels: S1, S2",
        "target age: not numbers, or beyond 1e+30: x",
    ):
        assert part in text


def test_a_long_list_is_cut(read):
    """After twenty, with how many more there are."""
    rows = [(f"X{n}", "", "a") for n in range(40)]
    with pytest.raises(MilError, match=r"row 21 names no patient\n  and 22 more$"):
        read(rows)


def test_slides_without_features_can_be_left_out_and_are_named(read):
    """As can features without labels; both are said."""
    cohort, notes = read([*ROWS, ("S9", "P9", "low")], sources=banks("S1", "S3", "S4", "X"), skip_missing=True)
    assert [c.case_id for c in cohort.cases] == ["S1", "S3", "S4"]
    assert notes == [
        "3 labelled slides have no features and were left out: S2, S5, S9",
        "1 slide with features is not in the table: X",
    ]
    with pytest.raises(MilError, match="it labels none of the 1 slide that has features"):
        read(ROWS, sources=banks("other"), skip_missing=True)


def test_patients_are_named_or_said_to_be_one_a_slide(read):
    """Otherwise slides of one patient might stand on both sides."""
    with pytest.raises(MilError, match=r"no column patient or patient_id but slide, grade\..*`slides_are_patients`"):
        read([(s, g) for s, _, g in ROWS], header="slide,grade")
    cohort, _ = read([(s, g) for s, _, g in ROWS], header="slide,grade", slides_are_patients=True)
    assert [c.patient for c in cohort.cases] == [row[0] for row in ROWS]
    cohort, _ = read(ROWS, header="slide_id,patient_id,grade")
    assert [c.patient for c in cohort.cases] == [row[1] for row in ROWS]


def test_folds_are_complete_also_where_slides_are_patients(read):
    """An empty cell is not a fold of its own."""
    rows = [(s, g, f) for (s, _, g), f in zip(ROWS, "abab ", strict=True)]
    with pytest.raises(MilError, match="1 row names no fold, the others do"):
        read(rows, header="slide,grade,fold", slides_are_patients=True)


def test_sites_and_folds_go_with_the_case(read):
    """A patient of two sites has both."""
    table = "slide,patient,grade,site,fold\nS1,P1,low,N,1\nS2,P1,low,S,1\nS3,P2,high,N,2\nS4,P3,high,N,2\nS5,P4,low,,1"
    cohort, _ = read(table, unit="union")
    assert [c.site for c in cohort.cases] == ["N+S", "N", "N", ""]
    assert [c.fold for c in cohort.cases] == ["1", "2", "2", "1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("slide,patient,grade\n", "has no rows", id="header-alone"),
        pytest.param("slide|patient|grade\nS1|P1|low", r"it has slide\|patient\|grade", id="bars"),
        pytest.param(
            "slide,patient,grad\nS1,P1,low", "has no column grade; it has .*Did you mean 'grad'", id="misspelled"
        ),
        pytest.param(
            "slide,Patients,grade\nS1,P1,low", "'Patients', which is not read: did you mean 'patient'", id="near"
        ),
        pytest.param('slide,patient,grade\nS1,"P1,low\nS2,P2,low', "cannot be read", id="a-quote-never-closed"),
        pytest.param("slide,patient,grade,grade\nS1,P1,low,high", "several columns grade", id="twice-the-column"),
        pytest.param(
            "slide,patient,grade\nS1,P1,low,3", "row 2 has more cells than the header .4, not 3.", id="ragged"
        ),
    ],
)
def test_what_is_no_such_table_is_refused(read, text, why):
    """With what it has."""
    with pytest.raises((MilError, DataError), match=why):
        read(text)


def test_a_table_that_a_spreadsheet_wrote_is_read(tmp_path):
    """Byte order mark, Windows line ends, empty columns to the right."""
    path = tmp_path / "labels.csv"
    rows = "".join(f"{','.join(row)},,\r\n" for row in (("slide", "patient", "grade"), *ROWS))
    path.write_bytes(b"\xef\xbb\xbf" + rows.encode())
    assert len(read_cohort(path, banks(), [asked("grade")])[0]) == 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("a:b:c", "cannot be understood", id="colons"),
        pytest.param("a:kind", "there is no kind 'kind'; there are binary", id="no-such-kind"),
        pytest.param("a:binary(x,y", "cannot be understood", id="open-bracket"),
        pytest.param("", "cannot be understood", id="empty"),
        pytest.param("os:cox", r"names its columns, as in os:cox\(days,event\)", id="cox-of-what"),
        pytest.param("os:cox(days,died,4)", "names its columns", id="cox-has-no-intervals"),
        pytest.param("m:multilabel", "names its columns", id="no-labels"),
        pytest.param("s:ordinal(I,II,I)", "names the same twice", id="twice-a-class"),
        pytest.param("a:regression(x)", "regression takes nothing in brackets", id="regression-of"),
    ],
)
def test_targets_that_cannot_be_understood_are_refused(text, why):
    """With what can be written."""
    with pytest.raises(MilError, match=why):
        asked(text)


def test_a_target_may_have_blanks_in_its_name(read):
    """And is called by all of it."""
    rows, options = column(["1", "2", "3"], header="tumour grade")
    with pytest.raises(MilError, match="say tumour grade:multiclass"):
        read(rows, "tumour grade", **options)
    assert read(rows, " tumour grade:ordinal ", **options)[0].targets[0].name == "tumour grade"


def test_a_cohort_of_some_cases_knows_nothing_of_the_others(read):
    """Its fingerprint neither; that of the same cases and labels is the same, and a label changes it."""
    cohort, _ = read(ROWS)
    part = cohort.only([0, 2])
    assert [c.case_id for c in part.cases] == ["S1", "S3"]
    assert [len(t) for t in part.truth] == [2]
    changed = read([*ROWS[:4], ("S5", "P4", "high")])[0]
    assert changed.fingerprint != cohort.fingerprint
    assert changed.only([0, 2]).fingerprint == part.fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("P1", "p1", id="case"),
        pytest.param("007", "7", id="zeros-that-a-spreadsheet-took"),
        pytest.param("P1", "P\u200b1", id="invisible"),
        pytest.param("P1", "\uff301", id="full-width"),
        pytest.param("P-1", "P\u20131", id="another-dash"),
        pytest.param("12", "12.0", id="a-number-with-a-point"),
    ],
)
@pytest.mark.parametrize("unit", ["slide", "union", "late"])
def test_one_patient_in_two_spellings_is_refused(read, one, other, unit):
    """Their slides would stand on both sides of a split; both spellings are named."""
    rows = [("S1", one, "low"), ("S2", other, "low"), *ROWS[2:]]
    with pytest.raises(MilError, match=r"are '.*' and '.*' one patient"):
        read(rows, unit=unit)


@pytest.mark.parametrize("word", ["NA", "#N/A", "Unknown", "'--"])
def test_a_patient_who_is_not_known_is_not_a_patient(read, word):
    """All who are not known would be one."""
    with pytest.raises(MilError, match="row 3 names no patient"):
        read([ROWS[0], ("S2", word, "low"), *ROWS[2:]])


def test_slides_are_patients_only_where_the_table_does_not_say_otherwise(read):
    """The flag does not tear a patient apart who is named."""
    with pytest.raises(MilError, match=r"column patient names P1 more than once\. Leave the flag out"):
        read(ROWS, slides_are_patients=True)
    with pytest.raises(MilError, match="'P1' and 'p1'"):
        read([ROWS[0], ("S2", "p1", "low"), *ROWS[2:]], slides_are_patients=True)
    cohort, _ = read(ROWS[1:], slides_are_patients=True)
    assert [c.patient for c in cohort.cases] == [row[0] for row in ROWS[1:]]


@pytest.mark.parametrize("what", ["site", "fold"])
def test_sites_and_folds_are_spelled_in_one_way(read, what):
    """Else one site would be kept together as two, and one fold held out as two."""
    rows = [(*row, name) for row, name in zip(ROWS, ["A", "A", "a", "B", "B"], strict=True)]
    with pytest.raises(MilError, match=f"are 'A' and 'a' one {what}"):
        read(rows, header=f"slide,patient,grade,{what}")


@pytest.mark.parametrize(
    "sides", [("train", "test"), ("Train", "TEST", "val"), ("training", "hold-out"), ("1", "test")]
)
def test_the_sides_of_one_split_are_no_folds(read, sides):
    """Training slides are not to be held out, and testing ones not to be trained on."""
    rows = [(*row, sides[n % len(sides)]) for n, row in enumerate(ROWS[1:])]
    with pytest.raises(MilError, match=r"the column fold names the sides of one split \(.*`mil predict` the others"):
        read(rows, header="slide,patient,grade,fold")


@pytest.mark.parametrize("word", ["#N/A", "None", "Not Reported", "Unknown", "'--", "NA", "nan"])
@pytest.mark.parametrize(
    ("values", "target"),
    [
        pytest.param(["a", "b", "a"], "grade", id="classes"),
        pytest.param(["I", "II", "III"], "grade:ordinal(I,II,III)", id="ordered"),
        pytest.param([f"{n}.5" for n in range(12)], "grade", id="values"),
        pytest.param(["0", "1", "1"], "m:multilabel(grade)", id="label"),
    ],
)
def test_what_says_that_nothing_is_known_is_no_label(read, word, values, target):
    """And is told, with how often, since it might be a class."""
    rows, options = column([*values, word, word])
    cohort, notes = read(rows, target, **options)
    assert np.isnan(cohort.truth[0][-2:]).all()
    assert np.isfinite(cohort.truth[0][:-2]).all()
    assert word not in cohort.targets[0].classes
    assert any(f"count as no label: {word!r} (2)" in note for note in notes)


def test_a_patient_survives_once(read):
    """Slides of one patient with two times, or two events, are refused; a cell that is empty says nothing else."""
    header, sources = "slide,patient,d,e", banks("S1", "S2", "S3", "S4", "S5")
    rows = [("S1", "P1", "5", "1"), ("S2", "P1", "9", "1"), ("S3", "P2", "4", "1"), ("S4", "P3", "3", "0")]
    with pytest.raises(MilError, match=r"patient 'P1' has several times or events: 5 \(1\), 9 \(1\)"):
        read(rows, "os:cox(d,e)", header=header, sources=sources)
    rows[1] = ("S2", "P1", "5", "0")
    with pytest.raises(MilError, match=r"5 \(0\), 5 \(1\)"):
        read(rows, "os:discrete(d,e)", header=header, sources=sources)
    rows[1] = ("S2", "P1", "", "1")
    assert len(read(rows, "os:cox(d,e)", header=header, sources=sources)[0]) == 4


def test_one_sheet_serves_for_embedding_and_training(read):
    """slide_id goes before slide, which is a path; suffix, folders and case do not matter."""
    table = (
        "slide,slide_id,mpp,mask,patient,grade\na/b.svs,S1,0.25,,P1,low\nb/S2.svs,,,m.png,P2,high\ns3.SVS,,,,P3,low\n"
    )
    cohort, notes = read(table, sources=banks("S1", "S2", "S3"))
    assert [c.case_id for c in cohort.cases] == ["S1", "S2", "S3"]
    assert notes == []


def test_two_rows_of_one_slide_are_found_by_whatever_name(read):
    """Else its patients might be two."""
    with pytest.raises(MilError, match="rows 2 and 3 are of the same slide 'S1'"):
        read([("S1", "P1", "low"), ("x/S1.svs", "P2", "high"), *ROWS[2:]])
    with pytest.raises(MilError, match=r"row 2: 's1' may be S1 or S1\.svs; write one of these"):
        read([("s1", "P1", "low"), *ROWS[2:]], sources=banks("S1", "S1.svs", "S3", "S4", "S5"))


def test_columns_that_were_not_read_are_told(read):
    """A split of one's own under another name, say."""
    rows = [(*row, "x") for row in ROWS]
    assert (
        "columns of the table that were not read, as nothing asks for them: 1"
        in read(rows, header="slide,patient,grade,split")[1]
    )
