"""The hub that timm asks for weights: asked only where it answers, so that a machine without network says so at once.

Its client tries each file six times with growing pauses; where nothing answers that is a
minute for nothing. Asked offline, it looks into its cache and is done.
"""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator

from huggingface_hub import constants

from wsi_umedpt.errors import StalledError
from wsi_umedpt.stalls import watched

ANSWER_S = 5.0
"""Seconds that the hub has to answer; names of machines are looked up within them, too."""


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


def hub_answers() -> bool:
    """Whether the hub, or the mirror that HF_ENDPOINT names, gives any answer, through proxies if there are some."""
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
