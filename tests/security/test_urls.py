"""URLs of strangers: their names stay in the folder that they belong to, their credentials with who gave them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.jobs.slide_files import files_of
from wsi_umedpt.errors import RemoteError
from wsi_umedpt.io.remote import Remote, check_relative, plain, without_secrets
from wsi_umedpt.slides.slide_id import url_id, why_unsafe
from wsi_umedpt.slides.slide_job import SlideJob

HOSTILE = (
    "../evil.svs",
    "..%2f..%2fevil.svs",
    "..\\evil.svs",
    "%2e%2e",
    "a%00b.svs",
    "con.svs",
    "",
    ".",
    "x/../../y.svs",
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", ["https", "s3"])
def test_ids_made_of_urls_are_safe(protocol, name):
    """Quoted or not."""
    made = url_id(f"{protocol}://host/slides/{name}")
    assert why_unsafe(made) is None
    assert Path(made).name == made


@given(st.text(max_size=80))
def test_ids_made_of_any_url_are_safe(text):
    """Whatever stands in it."""
    assert why_unsafe(url_id(f"https://host/{text}")) is None
    assert why_unsafe(url_id(f"s3://{text}")) is None


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../../b", "a\\b", "C:x", "a\0b", "", ".", "a/."])
def test_names_that_lead_out_of_a_prefix_are_refused(name):
    """Before anything is made of them."""
    with pytest.raises(RemoteError, match="lead out of the folder"):
        check_relative(name, "s3://bucket")


@pytest.mark.parametrize("name", ["..%2f..%2fpatient.svs", "a b;rm -rf.svs", "x" * 200 + ".svs", "x.s%2fvs", "x.!!"])
def test_copies_are_named_by_the_id(name, tmp_path, monkeypatch):
    """Never by what a server, or a table, calls the file."""
    monkeypatch.setattr(Remote, "size", lambda _: 1)
    [file] = files_of(SlideJob(tmp_path, "p1", url=f"https://host/{name}")).files
    assert Path(file.name).stem == "p1"
    assert Path(file.name).name == file.name
    assert "patient" not in file.name


def test_a_table_cannot_chain_file_systems(tmp_path):
    """Nor name a mask elsewhere."""
    table = tmp_path / "cohort.csv"
    table.write_text("slide,mask\ns3://b/x.svs,https://h/mask.png\nfilecache::s3://b/x.svs,\n")
    jobs, failures = list_slides([str(table)])
    assert failures[0].reason.startswith("masks are files on this machine")
    for job in jobs:  # one that is no URL by its form is the name of a file, which is not there
        assert job.url is None
    with pytest.raises(RemoteError, match="chains"):
        Remote("s3::http://h/x").info()


@given(st.text("abc:@/?#=&%", max_size=30))
def test_what_is_shown_of_a_url_holds_no_secret(tail):
    """No password, and nothing of a query."""
    url = f"https://user:S3CRET@host/x.svs?sig=S3CRET{tail}"
    assert "S3CRET" not in plain(url)
    assert "S3CRET" not in without_secrets(f"what: {url}, ('{url}') and sig=S3CRET{tail} alone", url)


def test_a_key_with_a_slash_is_a_password_too():
    """As those of AWS may be; ports, and names with an @, are shown."""
    url = "s3://AK1A:5E/CRET@bucket/x.svs"
    assert plain(url) == "s3://bucket/x.svs"
    told = without_secrets(f'{url}: invalid bucket "AK1A:5E"', url)
    assert not [word for word in ("AK1A", "5E", "CRET") if word in told]
    for shown in ("http://host:80/a@b.svs", "http://[::1]:80/a@b.svs", "s3://bucket/a:b@c.svs", "s3://bucket/a@b.svs"):
        assert plain(shown) == shown


@pytest.mark.parametrize(
    "words",
    [
        ("status", "URL"),
        ("report", "out", "-o", "URL"),
        ("export", "out", "--features", "clam", "-o", "URL"),
        ("mil", "explain", "model.json", "out", "-o", "URL"),
        ("embed", "a.svs", "-o", "s3://bucket/out", "--work", "URL"),
    ],
    ids=lambda words: words[0],
)
def test_no_path_of_this_machine_is_made_of_a_url(words, tmp_path, say):
    """What was meant for elsewhere is not written here, below a folder `https:`; its credentials are not shown."""
    code, out, err = say(*(word.replace("URL", "https://us3r:pa55@host/out?sig=5ECRET") for word in words))
    assert code == 1
    assert "https://host/out lies elsewhere" in err
    assert not [word for word in ("us3r", "pa55", "5ECRET") if word in out + err]
    assert list(tmp_path.iterdir()) == []
