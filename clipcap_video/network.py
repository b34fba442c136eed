"""Whether the model hub can be reached, found out once, where a name has to be fetched."""

from __future__ import annotations

import logging
import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

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
