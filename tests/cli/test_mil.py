"""`wsi-umedpt mil` from a table of labels to maps: what is written and said, and that a bad slide stops no other."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_umedpt.errors import StoreError
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileGrid, TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.scores_io import read_scores
from wsi_umedpt.store.slide_store import SlideStore

SPEC = TileSpec(size_px=64, mpp=0.5)
SMALL = ("--folds", 2, "--inner-folds", 2, "--seeds", 0, "--epochs", 2, "--hidden", 8, "--attention", 4, "--jobs", 1)


def make_store(folder: Path, name: str, features: np.ndarray) -> Path:
    """A store of a blank slide, tiles in a row."""
    Image.new("RGB", (512, 256), "white").save(folder / f"{name}.png")
    xy = np.array([[64 * (n % 8), 64 * (n // 8)] for n in range(len(features))], np.int32)
    grid = TileGrid(SPEC, 64.0, xy, np.ones(len(xy), np.float32))
    made_by = {"card": {"name": "enc", "dim": features.shape[1]}, "weights_sha256": "ab" * 32, "precision": "fp32"}
    with open_slide(folder / f"{name}.png", mpp=0.5) as slide:
        tissue = TissueMask(np.ones((4, 8), bool), 64)
        with SlideStore.create(folder / f"{name}.zarr", slide, tissue, grid) as store:
            writer = store.writer("enc", SPEC.grid_id, features.shape[1], made_by)
            writer.append(features.astype(np.float32), np.ones(len(xy), bool))
            writer.finish()
            store.set_status(SPEC.grid_id, np.zeros(len(xy), np.uint8))
            store.commit()
    (folder / f"{name}.png").unlink()
    return folder / f"{name}.zarr"


def features_of(n: int, high: bool, tiles: int = 6) -> np.ndarray:
    """Of which the first number says the class."""
    return np.random.default_rng(n).normal(size=(tiles, 5)) + np.array([3.0 * high, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Sixteen slides of eight patients as npz files, and a table of their labels."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "bank").mkdir()
    rows = [("slide", "patient", "grade", "age")]
    for n in range(16):
        high = n // 2 % 2 == 1
        np.savez(folder / "bank" / f"S{n:02}.npz", features=features_of(n, high).astype(np.float16))
        rows.append((f"S{n:02}", f"P{n // 2}", "high" if high else "low", str(40 + n)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def trained(study, say) -> Path:
    """A model of that study; trained once."""
    run = study / "run"
    if not (run / "model.json").exists():
        code, _, err = say(
            "mil", "train", study / "labels.csv", study / "bank", "-t", "grade", "-o", run, "--model", "mean", *SMALL
        )
        assert code == 0, err
    return run / "model.json"


def test_check_says_what_would_be_trained(say, study):
    """Cases, classes, folds; and trains nothing."""
    code, out, err = say(
        "mil", "check", study / "labels.csv", study / "bank", "-t", "grade", "-t", "age:regression", *SMALL[:6]
    )
    assert (code, err) == (0, "")
    assert "16 cases: 16 slides of 8 patients, 5 features a tile" in out
    assert "grade, binary: high 8, low 8 (the second is positive)" in out
    assert "age, regression: from 40 to 55" in out
    assert "seed 0: folds of 8, 8 cases" in out
    assert re.search(r"`mil train` takes about \d+ s at most on this machine \(cpu, \d+ at a time\)", out)
    assert [p.name for p in study.iterdir() if p.name != "run"] == ["bank", "labels.csv"]


def test_check_as_json_says_the_same(say, study):
    """One document, and no line beside it."""
    words = (study / "labels.csv", study / "bank", "-t", "grade", "-t", "age:regression", *SMALL[:6])
    found = json.loads(say("mil", "check", *words, "--json")[1])
    assert (found["cases"], found["patients"], found["folds"]) == (16, 8, {"0": [8, 8]})
    assert found["targets"][0]["classes"] == {"high": 8, "low": 8}
    assert (found["targets"][1]["least"], found["targets"][1]["greatest"]) == (40, 55)
    assert found["seconds_at_most"] > 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(("-t", "stage"), "has no column stage", id="no-such-target"),
        pytest.param(("-t", "grade:binary(a,b)"), "high, low is none of its classes a, b", id="other-classes"),
        pytest.param(("-t", "grade", "--folds", 9), "8 patients cannot be dealt to 9 folds", id="folds"),
        pytest.param(("-t", "grade", "--preserve-sites"), "no column site", id="sites"),
        pytest.param(
            ("-t", "grade", "--folds", 2, "--inner-folds", 7), "inner folds of what is left", id="inner-folds"
        ),
        pytest.param(("-t", "grade", "--seeds", -3), "--seeds must be different numbers from 0", id="seeds"),
        pytest.param(("-t", "grade", "--coverage", 1.5), "--coverage is from 0.5 to below 1", id="coverage"),
    ],
)
def test_mistakes_are_answered_in_a_line(say, study, words, why):
    """By check as by train, before anything is written."""
    for command in (("check",), ("train", "-o", "run")):
        code, _, err = say("mil", command[0], study / "labels.csv", study / "bank", *words, *command[1:])
        assert code == 1
        assert why in err
        assert "Traceback" not in err
        assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--lr", 0), "--lr is from 0 to 1"),
        (("--try", "sorcery=1"), "there is no key 'sorcery'"),
        (("--jobs", 0), "--jobs is 1 or more"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_settings_that_cannot_be_are_refused(say, study, words, why):
    """With the flag that they came by."""
    code, out, err = say("mil", "train", study / "labels.csv", study / "bank", "-t", "grade", "-o", "run", *words)
    assert code == 1
    assert why in out + err
    assert not Path("run").exists()


def test_train_leaves_all_that_it_promises(say, study, trained):
    """Report, figures, predictions, splits, models; and run again it has nothing to do."""
    run = trained.parent
    names = {p.name for p in run.iterdir()}
    assert {"report.html", "figures.json", "predictions.csv", "splits.csv", "run.json", "model.json", "folds"} <= names
    assert sorted(p.suffix for p in (run / "folds").iterdir()) == [".json"] * 2 + [".npz"] * 2 + [".safetensors"] * 2
    assert len({row["case_id"] for row in rows_of(run / "predictions.csv")}) == 16
    assert json.loads((run / "figures.json").read_text())
    before = {p: p.stat().st_mtime_ns for p in (run / "folds").iterdir()}
    code, out, err = say(
        "mil", "train", study / "labels.csv", study / "bank", "-t", "grade", "-o", run, "--model", "mean", *SMALL
    )
    assert code == 0, err
    assert str(run / "report.html") in out
    assert before == {p: p.stat().st_mtime_ns for p in (run / "folds").iterdir()}
    code, _, err = say(
        "mil", "train", study / "labels.csv", study / "bank", "-t", "grade", "-o", run, "--model", "max", *SMALL
    )
    assert code == 1
    assert "holds another study (there, and now):\n    --model: mean, max\n" in err


def test_predict_gives_a_row_a_slide(say, study, trained):
    """Class, chances that add up to 1, what cannot be ruled out, and whether it is unlike what was trained on."""
    code, out, err = say("mil", "predict", trained, study / "bank", "-o", "new/predictions.csv")
    assert (code, err) == (0, "")
    assert out.endswith("new/predictions.csv: 16 predicted\n")
    rows = rows_of(Path("new/predictions.csv"))
    assert [r["case_id"] for r in rows] == [f"S{n:02}" for n in range(16)]
    for row in rows:
        assert float(row["grade_predicted_high"]) + float(row["grade_predicted_low"]) == pytest.approx(1, abs=1e-5)
        assert row["grade_decided"] in ("high", "low")
        assert row["tiles"] == "6"
        assert {*row["grade_conformal_set"].split("|")} <= {"", "high", "low"}
        assert 0 <= float(row["ood_p_value"]) <= 1
        assert row["out_of_distribution"] in ("yes", "no")


def test_predict_joins_the_slides_of_a_patient(say, study, trained):
    """Where they are named; and refuses where some are not."""
    rows = [("slide_id", "patient"), *((f"S{n:02}", f"P{n // 2}") for n in range(16))]
    Path("patients.csv").write_text("\n".join(",".join(row) for row in rows))
    code, _, err = say("mil", "predict", trained, study / "bank", "-o", "p.csv", "--patients", "patients.csv")
    assert (code, err) == (0, "")
    found = rows_of(Path("p.csv"))
    assert [(r["case_id"], r["slides"]) for r in found] == [(f"P{n}", f"S{2 * n:02}+S{2 * n + 1:02}") for n in range(8)]
    Path("patients.csv").write_text("\n".join(",".join(row) for row in rows[:-1]))
    code, _, err = say("mil", "predict", trained, study / "bank", "-o", "p.csv", "--patients", "patients.csv")
    assert code == 1
    assert "whose slides these are is not said: S15" in err


def test_a_bad_slide_stops_no_other(say, study, trained, tmp_path):
    """It is named with its reason, in the table too, and the exit code is 1."""
    bank = tmp_path / "mixed"
    bank.mkdir()
    np.savez(bank / "good.npz", features=features_of(1, True).astype(np.float16))
    np.savez(bank / "overflown.npz", features=np.full((4, 5), np.inf, np.float16))
    np.savez(bank / "wider.npz", features=np.zeros((4, 9), np.float16))
    np.savez(bank / "zgood.npz", features=features_of(2, False).astype(np.float16))
    (bank / "torn.npz").write_bytes((bank / "good.npz").read_bytes()[:200])
    code, out, err = say("mil", "predict", trained, bank, "-o", "p.csv")
    assert (code, err) == (1, "")
    assert "p.csv: 2 predicted, 3 failed" in out
    errors = {row["case_id"]: row["error"] for row in rows_of(Path("p.csv"))}
    assert (errors["good"], errors["zgood"]) == ("", "")
    assert "not finite" in errors["overflown"]
    assert "torn.npz" in errors["torn"]
    assert "wider has features that this model was not trained on: dim 9 instead of 5" in errors["wider"]


DAMAGE = {
    "S1": lambda s: (s / "zarr.json").write_text("{"),
    "S4": lambda s: (s / "zarr.json").write_text((s / "zarr.json").read_text().replace('"mpp": 0.5', '"mpp": 0.4')),
    "S6": lambda s: [shutil.rmtree(p) for p in s.glob("grids/*/features/enc")],
    "S9": lambda s: [flip(p) for p in s.glob("grids/*/features/enc/c/0/0")],
    "S11": lambda s: [p.unlink() for p in s.glob("grids/*/xy/c/0/0")],
    "unlabelled": lambda s: (s / "zarr.json").unlink(),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("command", ["check", "train"])
def test_stores_that_cannot_be_used_are_left_out_and_listed(say, tmp_path, command):
    """Whether that shows at once or when numbers are read: the others are trained on, the report says so, exit 1."""
    folder, rows = tmp_path / "out", ["slide,patient,grade"]
    folder.mkdir()
    for n in range(14):
        make_store(folder, f"S{n}", features_of(n, n % 2 == 1))
        rows.append(f"S{n},P{n},{'high' if n % 2 else 'low'}")
    make_store(folder, "unlabelled", features_of(1, True))
    for name, damage in DAMAGE.items():
        damage(folder / f"{name}.zarr")
    Path("labels.csv").write_text("\n".join(rows))
    words = ("-o", "run", "--model", "mean", *SMALL) if command == "train" else SMALL[:6]
    for _ in range(2 if command == "train" else 1):  # again, it goes on with the same study
        code, out, err = say("mil", command, "labels.csv", folder, "-t", "grade", *words)
        assert code == 1
        assert "9 cases: 9 slides of 9 patients" in out
        assert "5 labelled slides have features that cannot be used and were left out: S1, S11, S4, S6, S9" in out
        listed = err[err.index("6 failed:") :].splitlines()
        assert [line.strip().partition(":")[0] for line in listed[1:]] == sorted(DAMAGE)
    if command == "train":
        assert len(rows_of(Path("run/predictions.csv"))) == 9
        assert "cannot be used and were left out" in Path("run/report.html").read_text()


def test_features_that_cannot_be_used_are_left_out_of_training(say, study, tmp_path):
    """Files of other tools too: torn ones, and numbers that are none."""
    bank = Path(shutil.copytree(study / "bank", tmp_path / "bank"))
    (bank / "S03.npz").write_bytes((bank / "S03.npz").read_bytes()[:100])
    np.savez(bank / "S08.npz", features=np.full((4, 5), np.nan, np.float16))
    code, out, err = say("mil", "check", study / "labels.csv", bank, "-t", "grade", *SMALL[:6])
    assert code == 1
    assert "14 cases" in out
    assert "S03" in err.splitlines()[1]
    assert "not finite" in err.splitlines()[2]


def test_a_patient_is_not_predicted_of_half_the_slides(say, study, trained, tmp_path):
    """Where features of one cannot be read, the patient is a failure; others are predicted."""
    bank = tmp_path / "half"
    bank.mkdir()
    for name in ("a", "b", "c"):
        np.savez(bank / f"{name}.npz", features=features_of(1, True).astype(np.float16))
    (bank / "b.npz").write_bytes(b"torn")
    Path("patients.csv").write_text("slide_id,patient\na,P1\nb,P1\nc,P2\n")
    code, out, _ = say("mil", "predict", trained, bank, "-o", "p.csv", "--patients", "patients.csv")
    assert code == 1
    assert [(row["case_id"], "b.npz" in row["error"]) for row in rows_of(Path("p.csv"))] == [
        ("P2", False),
        ("P1", True),
    ]
    assert "P1: FAILED" in out


def test_models_that_are_none_are_refused(say, study):
    """In a line."""
    Path("model.json").write_text(json.dumps({"artifact": "probe"}))
    for name in ("model.json", "nowhere.json"):
        code, _, err = say("mil", "predict", name, study / "bank", "-o", "p.csv")
        assert code == 1
        assert name in err
        assert "Traceback" not in err
    code, _, err = say("mil", "predict", "model.json", study / "bank", "-o", "p.txt")
    assert "--out names a CSV file" in err


def test_explain_without_places_draws_nothing(say, study, trained):
    """Plain archives of features do not say where tiles lie: every slide is a failure with that reason."""
    code, out, _ = say("mil", "explain", trained, study / "bank" / "S00.npz", "-o", "maps")
    assert code == 1
    assert "S00: FAILED: " in out
    assert "where" in out


def test_stores_get_scores_and_maps(say, tmp_path):
    """From stores to a model, to scores of every tile in them, to pictures, a raster and tiles for QuPath."""
    folder, rows = tmp_path / "out", [("slide", "patient", "grade")]
    folder.mkdir()
    for n in range(8):
        make_store(folder, f"S{n}", features_of(n, n % 2 == 1))
        rows.append((f"S{n}", f"P{n}", "high" if n % 2 else "low"))
    Path("labels.csv").write_text("\n".join(",".join(row) for row in rows))
    code, _, err = say(
        "mil", "train", "labels.csv", folder, "-t", "grade:binary(low,high)", "-o", "run", "--model", "additive", *SMALL
    )
    assert code == 0, err
    shown = make_store(tmp_path, "S=1 (new)", features_of(50, True))
    code, out, err = say("mil", "predict", "run/model.json", shown, "-o", "p.csv", "--no-scores")
    assert (code, err) == (0, "")
    with pytest.raises(StoreError):
        read_scores(SlideStore.open(shown), "mil_run")
    code, out, err = say("mil", "predict", "run/model.json", shown, "-o", "p.csv")
    assert (code, err) == (0, "")
    scores, about = read_scores(SlideStore.open(shown), "mil_run")
    assert about["columns"] == ["attention", "contribution_grade:high"]
    assert about["contributions"] == "exact"
    assert "trained_on" not in json.dumps(about)
    assert scores[:, 0].sum() == pytest.approx(1, abs=1e-5)
    code, out, err = say("mil", "explain", "run/model.json", shown, "-o", "maps", "--leave-out")
    assert (code, err) == (0, "")
    files = sorted(Path(line).name for line in out.splitlines())
    assert files == sorted(p.name for p in Path("maps").iterdir())
    assert {Path(name).suffix for name in files} == {".png", ".tif", ".gz"}
    assert len([name for name in files if name.endswith(".png")]) == 3


@pytest.mark.parametrize("command", [(), ("check",), ("train",), ("predict",), ("explain",)])
def test_help_of_every_command(say, command):
    """What it does, and every flag with its words."""
    code, out, err = say("mil", *command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: wsi-umedpt mil" in out
    flags = {"check": "--inner-folds", "train": "--class-weights", "predict": "--patients", "explain": "--leave-out"}
    assert flags.get(command[0] if command else "", "train") in out
