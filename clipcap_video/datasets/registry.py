"""The readers of annotation files: a new data set is one module and one line here.

A reader module has `matches(source) -> bool` and `read(source)`, which gives VideoRecords, or a Listing where the file
decides a split. The first that matches reads the file.
"""

from __future__ import annotations

from clipcap_video.datasets import activitynet, coco, didemo, lists, lsmdc, msrvtt, msvd, tables, tabular
from clipcap_video.datasets.base import Reader

READERS: list[Reader] = [
    tables,
    coco,
    msrvtt,
    activitynet,
    didemo,
    lsmdc,
    msvd,
    lists,
    tabular,
]
