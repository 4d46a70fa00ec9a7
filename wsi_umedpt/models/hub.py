"""Weights from the hub: files of repositories, from its cache or over the network, and why they cannot be had.

The hub's own client does the work: it finds the user's token, its cache and the mirror that HF_ENDPOINT names. It
tries each file many times where nothing answers, which is a minute for nothing: it is asked only where the hub
answers, and looks into its cache elsewhere.
"""

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from wsi_umedpt.errors import FULL_DISK, EncoderError, StalledError
from wsi_umedpt.io.stalls import watched
from wsi_umedpt.models.cards import find_card
from wsi_umedpt.models.names import parse_name

ANSWER_S = 5.0
"""Seconds that the hub has to answer; names of machines are looked up within them, too."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in repositories, the better form first."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Fetched(NamedTuple):
    """A file of a repository."""

    path: Path
    revision: str
    """Commit that it is of; empty where that is not known."""
    sha256: str
    """SHA-256 of the file, as the hub states it; empty for small files, of which it states none."""


@contextlib.contextmanager
def asked_where_it_answers() -> Iterator[bool]:
    """Let the hub's client look only into its cache where nothing answers; whether it may ask."""
    if constants.HF_HUB_OFFLINE:
        yield False
        return
    answers = hub_answers()
    constants.HF_HUB_OFFLINE = not answers
    try:
        yield answers
    finally:
        constants.HF_HUB_OFFLINE = False


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Let nothing be asked of the hub; its cache is looked into."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers() -> bool:
    """Return whether the hub, or the mirror that HF_ENDPOINT names, gives any answer, through proxies if set."""
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        return False

    def ask() -> bool:
        try:
            with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWER_S):  # noqa: S310 - a web address
                return True
        except urllib.error.HTTPError:  # an answer, if not a kind one
            return True
        except (OSError, ValueError):
            return False

    try:
        return watched(lambda _: ask(), stall_s=ANSWER_S + 1)
    except StalledError:
        return False


def cached(repository: str, files: Sequence[str], revision: str = "") -> Fetched | None:
    """The first of some files that the cache holds; nothing is asked over the network."""
    for file in files:
        with contextlib.suppress(LocalEntryNotFoundError, EntryNotFoundError, OSError, ValueError):
            return _fetched(hf_hub_download(repository, file, revision=revision or None, local_files_only=True))
    return None


def fetch(repository: str, files: Sequence[str], revision: str = "", *, called: str = "NAME") -> Fetched:
    """Have a file of a repository: from the cache where it is pinned or the hub does not answer, else from the hub.

    Parameters
    ----------
    repository
        OWNER/NAME.
    files
        Names, the first that is there is taken.
    revision
        A commit, a branch or a tag; empty for the newest.
    called
        The encoder, for messages; empty where a file alone does not replace the repository.

    Raises
    ------
    EncoderError
        If it cannot be had: each reason is another sentence, with what to do.
    """
    if _COMMIT.fullmatch(revision) and (there := cached(repository, files, revision)):
        return there
    with asked_where_it_answers() as answers:
        if not answers:
            if there := cached(repository, files, revision):
                return there
            raise _not_here(repository, files[0], revision, called)
        for file in files:
            try:
                return _fetched(hf_hub_download(repository, file, revision=revision or None))
            except EntryNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - each is said in words
                raise EncoderError(_why(error, repository, revision)) from None
    raise EncoderError(
        f"{repository}{f' at revision {revision}' if revision else ''} has no file {' or '.join(files)}: it was moved "
        f"or renamed. See https://huggingface.co/{repository}/tree/main, and name a file: {called or 'NAME'}@FILE."
    )


def _fetched(found: str) -> Fetched:
    path = Path(found)
    at = path.parts.index("snapshots") + 1 if "snapshots" in path.parts else 0
    blob = path.resolve().name
    return Fetched(path, path.parts[at] if at else "", blob if _SHA256.fullmatch(blob) else "")


def check_at_hand(text: str) -> None:
    """Refuse an encoder whose weights are not in the cache while the hub does not answer; without torch.

    Raises
    ------
    EncoderError
        With what to do.
    """
    asked = parse_name(text)
    if asked.source != "card" or asked.file:
        return
    card = find_card(asked.name)
    if not card.repository or card.library not in ("timm", "transformers"):
        return
    files, revision = (card.file,) if card.file else WEIGHTS, str(asked.options.get("revision", card.revision))
    if cached(card.repository, files, revision) is None:
        with asked_where_it_answers() as answers:
            if not answers:
                raise _not_here(card.repository, files[0], revision, card.name)


def _not_here(repository: str, file: str, revision: str, called: str) -> EncoderError:
    """Error where the hub does not answer, with what to do."""
    at = f" at revision {revision}" if revision else ""
    do = (
        f"Download {file} elsewhere, from https://huggingface.co/{repository} (which may ask you to accept terms), and "
        f"name it: {called}@FILE."
        if called
        else f"Where it does, type: hf download {repository}; then copy the cache ({constants.HF_HUB_CACHE}) here."
    )
    return EncoderError(
        f"the hub does not answer from this machine, and its cache here does not hold {repository}{at}. {do}"
    )


def _why(error: Exception, repository: str, revision: str) -> str:
    """Reason why a file cannot be had, and what to do."""
    page = f"https://huggingface.co/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return (
                f"{repository} is gated, and there is no token on this machine. Accept its terms at {page}, make a "
                "token at https://huggingface.co/settings/tokens, and type: hf auth login"
            )
        return (
            f"{repository} is gated, and your token is of an account that has not been let in. Accept its terms, or "
            f"ask, at {page}; then try again."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: it was moved or never was. See {page}/commits/main."
    if isinstance(error, RepositoryNotFoundError):
        if status == 401 and get_token() is not None:
            return f"the hub refuses your token for {repository}: it is wrong or has run out. Type: hf auth login"
        return (
            f"the hub has no repository {repository}, or it is private and your token may not see it. See {page}; to "
            "give another token, type: hf auth login"
        )
    if status == 401:
        return f"the hub refuses your token for {repository}: it is wrong or has run out. Type: hf auth login"
    if status == 403:
        return f"the hub refuses {repository} to your account (403). See {page}."
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return (
            f"the disk of the hub's cache ({constants.HF_HUB_CACHE}) is full: weights of {repository} do not fit. "
            "Free some, or set HF_HOME to a folder on another disk."
        )
    if isinstance(error, HfHubHTTPError) and status is not None:
        return f"the hub answers {status} for {repository}: {_first(error)}. Try again later."
    return (
        f"the download of {repository} broke off: {type(error).__name__}: {_first(error)}. Try again: what is there is "
        "kept."
    )


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]
