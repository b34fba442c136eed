"""The readers of annotation files: a new data set is one module and one line here.

A reader module has `matches(source) -> bool` and `read(source)`, which gives VideoRecords, or a Listing where the file
decides a split. The first that matches reads the file.
"""

from __future__ import annotations

from clipcap_video.datasets import (
    activitynet,
    charades,
    coco,
    didemo,
    flickr,
    karpathy,
    lists,
    lsmdc,
    msrvtt,
    msvd,
    multi30k,
    tables,
    tabular,
    tgif,
    vatex,
    webvid,
    youcook2,
)
from clipcap_video.datasets.base import Reader

READERS: list[Reader] = [
    tables,
    multi30k,
    coco,
    karpathy,
    msrvtt,
    activitynet,
    youcook2,
    didemo,
    vatex,
    lsmdc,
    tgif,
    flickr,
    charades,
    webvid,
    msvd,
    lists,
    tabular,
]
