"""Annotations in Parquet: columns video (or video_id), caption or captions, and perhaps split, for millions of videos.

One caption a row, or in `captions` a list of them. They stay in the table's own form and become text when a batch asks
for them, so that twenty million are read in seconds. Without a split, a row belongs to "train".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clipcap_video.datasets.records import SplitOverlap, Texts, VideoRecord, normal_split
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import DEFAULT_SPLIT, video_id_of
from clipcap_video.errors import ClipcapError, first_line

SUFFIX = ".parquet"


def matches(source: Source) -> bool:
    return source.path.suffix.lower() == SUFFIX


def read(source: Source) -> list[VideoRecord]:
    """Videos in order of first appearance, captions in the order of the table."""
    videos, captions, splits = _columns(source)
    if not len(videos):
        return []
    encoded = videos.dictionary_encode()
    codes = encoded.indices.to_numpy()
    ids = [video_id_of(name) for name in encoded.dictionary.to_pylist()]
    if len(set(ids)) < len(ids):  # a name with its ending, and without
        first = {video_id: code for code, video_id in reversed(list(enumerate(ids)))}
        codes = np.array([first[video_id] for video_id in ids])[codes]
    split_of = _splits(source, ids, codes, splits)
    if (np.diff(codes) < 0).any():
        captions = captions.take(_array(np.argsort(codes, kind="stable")))
    ends = np.cumsum(np.bincount(codes, minlength=len(ids)))
    starts = np.concatenate([[0], ends[:-1]])
    return [
        VideoRecord(video_id, split, Texts(captions, start, end))  # type: ignore[arg-type]
        for video_id, split, start, end in zip(ids, split_of, starts.tolist(), ends.tolist(), strict=True)
        if end > start
    ]


def _array(values: Any) -> Any:
    import pyarrow

    return pyarrow.array(values)


def _columns(source: Source) -> tuple[Any, Any, Any]:
    """The columns of videos, captions and splits, a row a caption; splits may be None."""
    try:
        import pyarrow
        import pyarrow.compute as compute
        import pyarrow.parquet as parquet
    except ImportError:
        raise ClipcapError("Parquet needs pyarrow; pip install 'clipcap-video[parquet]'") from None
    path = source.path
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        video = next((name for name in ("video", "video_id") if name in names), None)
        caption = next((name for name in ("captions", "caption") if name in names), None)
        if video is None or caption is None:
            raise ClipcapError(
                f"{path} has the columns {', '.join(names)}; one called video and one called caption are looked for"
            )
        table = file.read([name for name in (video, caption, "split") if name in names])
        if caption == "captions":
            column = table[caption].combine_chunks()
            rows = compute.list_parent_indices(column)
            table = table.drop_columns([caption]).take(rows).append_column(caption, compute.list_flatten(column))
        texts = compute.utf8_trim_whitespace(table[caption].cast(pyarrow.large_string()))
        table = table.set_column(table.schema.get_field_index(caption), caption, texts)
        if table[video].null_count:
            raise ClipcapError(f"{path}: {table[video].null_count} rows lack the field {video}; give the videos' ids")
        table = table.filter(compute.fill_null(compute.not_equal(table[caption], ""), False))
        videos, captions = (table[name].cast(pyarrow.large_string()).combine_chunks() for name in (video, caption))
        return videos, captions, table["split"].combine_chunks() if "split" in names else None
    except ClipcapError:
        raise
    except Exception as error:  # whatever the reader throws at a damaged file, or at columns of another type
        raise ClipcapError(f"{path} is not a table of texts ({first_line(error)}); check that it is whole") from None


def _splits(source: Source, ids: list[str], codes: np.ndarray, splits: Any) -> list[str]:
    """The split of each video."""
    if splits is None:
        return [DEFAULT_SPLIT] * len(ids)
    encoded = splits.fill_null("").dictionary_encode()
    names = [normal_split(name) or DEFAULT_SPLIT for name in encoded.dictionary.to_pylist()]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    of_row = np.array([numbers[name] for name in names], int)[encoded.indices.to_numpy()]
    chosen = np.zeros(len(ids), int)
    chosen[codes[::-1]] = of_row[::-1]  # the first row of a video decides
    told = list(numbers)
    wrong = np.flatnonzero(chosen[codes] != of_row)
    if len(wrong):
        overlaps = {ids[codes[row]]: (told[chosen[codes[row]]], told[of_row[row]]) for row in wrong.tolist()}
        video_id, (first, other) = next(iter(overlaps.items()))
        raise SplitOverlap(
            f"{source.path}: video {video_id!r} is in the splits {first!r} and {other!r}; a video belongs to one split",
            overlaps,
        )
    return [told[number] for number in chosen.tolist()]
