"""DiDeMo's files."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.video.sampling import Span
from tests.datasets.published import didemo_entry, write

DIDEMO = [
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "a cat runs.", [[0, 0], [0, 1], [0, 0], [0, 1]]),
    didemo_entry("10015567@N08_3655084291_d8b58466fa.mov", "the camera pans", [[5, 5]] * 4),
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "the cat sits", [[2, 3]] * 4),
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "it sits still", [[2, 3]] * 4),
]


def test_didemo_moments_and_paragraphs(tmp_path: Path) -> None:
    file = write(tmp_path / "val_data.json", DIDEMO)
    first, second = "54322086@N00_2408598493_274c77d26a", "10015567@N08_3655084291_d8b58466fa"
    # Chunks of 5 s; the end is the mean of 0, 1, 0 and 1 plus the chunk itself: 7.5 s.
    assert read_annotations([file]) == [
        VideoRecord(f"{first}@0.00-7.50", "validate", ["a cat runs."], first, Span(0, 7.5)),
        VideoRecord(f"{second}@25.00-30.00", "validate", ["the camera pans"], second, Span(25, 30)),
        VideoRecord(f"{first}@10.00-20.00", "validate", ["the cat sits", "it sits still"], first, Span(10, 20)),
    ]
    assert read_annotations([file], paragraphs=True) == [
        VideoRecord(first, "validate", ["a cat runs. the cat sits it sits still"]),
        VideoRecord(second, "validate", ["the camera pans"]),
    ]
    listed = write(tmp_path / "val_list.txt", "10015567@N08_3655084291_d8b58466fa.mov\n")
    assert [record.source for record in read_annotations([file, listed])] == [second]
    assert [record.video_id for record in read_annotations([file, listed], paragraphs=True)] == [second]
