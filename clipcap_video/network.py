"""Addresses of the web, and whether the model hub can be reached: found out once, where a name has to be fetched."""

from __future__ import annotations

import logging
import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

from clipcap_video.errors import ClipcapError

SECONDS = 5.0


@cache
def try_hub_once() -> None:
    """One attempt at reaching the hub. Where it fails, what is not on this disk is refused at once from here on.

    Its libraries would ask for each file six times, and write two lines each time.
    """
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    place = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies() or place.hostname is None:
        return
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=SECONDS).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started from here
        constants.HF_HUB_OFFLINE = True


def require_web_address(url: str, option: str) -> None:
    """Raises ClipcapError for what is no address of a server. option: that it was given with."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        fits = False
    if not fits:
        raise ClipcapError(f"{option} {url!r} is no web address; give one that begins with http:// or https://")
