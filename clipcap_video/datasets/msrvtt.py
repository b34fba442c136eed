"""MSR-VTT annotations as published in 2016 and 2017, one JSON object of videos and sentences, and the 1k test list.

Xu et al., "MSR-VTT: A Large Video Description Dataset for Bridging Video and Language", CVPR 2016. The 2017
challenge's test file has videos and no sentences: its videos get no captions. MSRVTT_JSFUSION_test.csv (Yu et al.,
ECCV 2018) lists 1,000 test videos with the one sentence each that searches for it; the training lists that go with
it (MSRVTT_train.9k.csv, MSRVTT_train.7k.csv) are bare lists of ids.
"""

from __future__ import annotations

from typing import Any

from clipcap_video.datasets.records import Listing, SplitOverlap, VideoRecord, normal_split
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError


def matches(source: Source) -> bool:
    if source.content is None:
        return {"video_id", "sentence"} <= set(source.columns())
    return isinstance(source.content, dict) and ("videos" in source.content or "sentences" in source.content)


def read(source: Source) -> list[VideoRecord] | Listing:
    """Videos in file order; captions in the order of `sentences`, which is not that of `sen_id`."""
    if source.content is None:
        split = source.require_split()
        rows = source.rows("video_id", "sentence")
        return Listing([_listed(source, where, row, split) for where, row in rows])
    if "videos" not in source.content:
        raise ClipcapError(f"{source.path} lacks the field videos; MSR-VTT annotations list videos and sentences")
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    for index, video in enumerate(_entries(source, "videos")):
        where = f"videos[{index}]"
        video_id = _text(source, video, "video_id", where)
        split = normal_split(_text(source, video, "split", where))
        if video_id in splits:
            sentence = f"{source.path}: {where} repeats video {video_id!r}; remove one of the entries"
            if splits[video_id] != split:
                raise SplitOverlap(sentence, {video_id: (splits[video_id], split)})
            raise ClipcapError(sentence)
        splits[video_id] = split
        captions[video_id] = []
    if source.content.get("sentences") is None and any(split != "test" for split in splits.values()):
        raise ClipcapError(
            f"{source.path} lacks the field sentences, which only a file of test videos may do; "
            "check that the download is complete"
        )
    for index, sentence in enumerate(_entries(source, "sentences")):
        where = f"sentences[{index}]"
        video_id = _text(source, sentence, "video_id", where)
        if video_id not in captions:
            raise ClipcapError(
                f"{source.path}: {where} is about video {video_id!r}, which videos does not list; "
                "add the video or remove the sentence"
            )
        captions[video_id].append(_text(source, sentence, "caption", where))
    return [VideoRecord(video_id, split, captions[video_id]) for video_id, split in splits.items()]


def _listed(source: Source, where: str, row: dict[str, Any], split: str) -> VideoRecord:
    video_id, sentence = _text(source, row, "video_id", where), _text(source, row, "sentence", where)
    return VideoRecord(video_id, split, [sentence])


def _entries(source: Source, name: str) -> list[Any]:
    assert source.content is not None
    entries = source.content.get(name) or []
    if not isinstance(entries, list):
        raise ClipcapError(f"{source.path}: the field {name} is not a list; MSR-VTT annotations have a list there")
    return entries


def _text(source: Source, entry: Any, name: str, where: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or (not value.strip() and name != "caption"):
        problem = "lacks the field" if value is None else "has no text in the field"
        raise ClipcapError(f"{source.path}: {where} {problem} {name}; add it or remove the entry")
    return value
