"""Which videos and captions stand in which batch of which epoch."""

from __future__ import annotations

from itertools import chain

from clipcap_video.features.layouts import open_features
from clipcap_video.training.data import CaptionData, EpochOrder
from tests.conftest import TinyProject


class TestOrder:
    def data(self, project: TinyProject, captions: int = 5) -> CaptionData:
        store = open_features(project.data)
        return CaptionData(
            store, store.ids()[:7], [[[video, turn] for turn in range(captions)] for video in range(7)], 9
        )

    def test_every_video_once_an_epoch_in_another_order_each_time(self, tiny_project: TinyProject) -> None:
        order = EpochOrder(self.data(tiny_project), 3, 0, seed=0)
        first, second = order.batches(0), order.batches(1)
        assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(7))
        assert first != second
        assert first == EpochOrder(self.data(tiny_project), 3, 0, seed=0).batches(0)
        assert first != EpochOrder(self.data(tiny_project), 3, 0, seed=1).batches(0)

    def test_captions_take_turns_until_all_were_used(self, tiny_project: TinyProject) -> None:
        order = EpochOrder(self.data(tiny_project), 3, captions_per_video=2, seed=0)
        used = [caption[1] for epoch in range(5) for caption in order.captions(epoch, 3)]
        assert sorted(used) == sorted(2 * list(range(5)))
        assert len(set(used[:5])) == 5
        everything = EpochOrder(self.data(tiny_project), 3, 0, seed=0)
        assert [caption[1] for caption in everything.captions(4, 3)] == [0, 1, 2, 3, 4]
