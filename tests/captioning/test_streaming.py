"""Segments captioned while their video is read, and neighbours that say the same."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator

import pytest

from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.streaming import caption_batches, joined
from clipcap_video.errors import VideoError


class TestJoining:
    def test_neighbours_that_say_the_same(self) -> None:
        def said(text: str, start: float, sure: float) -> Prediction:
            return Prediction("v", [Caption(text, sure, sure, 3)], [start], None, start, start + 1)

        found = list(joined([said("a dog", 0, -2), said("A  dog", 1, -1), said("a cat", 2, -1), said("a dog", 3, -1)]))
        assert [(one.text, one.start, one.end, one.timestamps) for one in found] == [
            ("A  dog", 0, 2, [0, 1]),
            ("a cat", 2, 3, [2]),
            ("a dog", 3, 4, [3]),
        ]


class TestBatches:
    @staticmethod
    def batches(video: Iterable[object]) -> Iterator[list[object]]:
        return caption_batches(lambda batch: [("caption", one) for one in batch], video, 3)  # type: ignore[arg-type, return-value]

    def test_all_come_once_and_in_order(self) -> None:
        found = list(self.batches(range(7)))
        assert [len(batch) for batch in found] == [3, 3, 1]
        assert [one for batch in found for one in batch] == [("caption", number) for number in range(7)]

    def test_captions_before_a_fault_come_and_then_it_is_raised(self) -> None:
        def breaks() -> Iterator[int]:
            yield from range(4)
            raise VideoError("v.mp4 breaks off")

        captions = self.batches(breaks())
        assert next(captions) == [("caption", number) for number in range(3)]
        assert next(captions) == [("caption", 3)]
        with pytest.raises(VideoError, match="breaks off"):
            next(captions)

    def test_the_reader_is_at_most_two_batches_ahead_and_ends_with_its_consumer(self) -> None:
        read: list[int] = []
        closed = threading.Event()

        def endless() -> Iterator[int]:
            try:
                for number in itertools.count():
                    read.append(number)
                    yield number
            finally:
                closed.set()

        captions = self.batches(endless())
        next(captions)
        captions.close()  # type: ignore[attr-defined]
        assert closed.wait(30)
        assert len(read) <= 3 + 2 * 3 + 2  # a batch, a full queue, and what each side holds
