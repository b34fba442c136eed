"""Which frames of a video are taken, and what becomes of videos that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.retrieval.data import DecodedFrames, RetrievalData, StoredFrames, sliced
from clipcap_video.retrieval.train import train_retrieval
from clipcap_video.video.sampling import SamplingSpec
from tests.retrieval.conftest import end_to_end
from tests.tiny import WIDTH, write_feature_folder


def test_frames_are_sliced_as_the_paper_does() -> None:
    assert [sliced(10, 4, kind).tolist() for kind in "012"] == [[0, 1, 2, 3], [6, 7, 8, 9], [0, 3, 6, 9]]
    assert sliced(3, 4, "1").tolist() == [0, 1, 2]


def test_only_the_first_seconds_are_read(clips: Path) -> None:
    """Frames at 0, 0.5, ..., 2.5 s of a video of 2.5 s; as CLIP4Clip does with 31 of DiDeMo's."""
    spec = SamplingSpec("uniform", 100, 2.0)

    def count(seconds: float) -> int:
        source = DecodedFrames({"a": clips / "videos" / "clip5.mp4"}, spec, lambda frames: frames, 1, seconds)
        (frames,) = source.load(["a"])
        assert frames is not None
        return len(frames)

    assert [count(seconds) for seconds in (0, 1, 1.4, 99)] == [5, 3, 3, 5]


def test_a_bad_video_sits_out(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for file in (clips / "videos").iterdir():
        (videos / file.name).symlink_to(file)
    (videos / "clip1.mp4").unlink()
    (videos / "clip1.mp4").write_bytes(b"no video")
    summary = train_retrieval(end_to_end(clips, tmp_path / "out", videos=[videos], epochs=2, eval_every=0))
    assert summary.finished
    assert capsys.readouterr().err.count("left out: ") == 1


class Frames:
    """Every frame of video N is N; video 2 cannot be read."""

    def load(self, video_ids: Sequence[str]) -> list[Tensor | None]:
        numbers = [int(video_id) for video_id in video_ids]
        return [None if number == 2 else torch.full((number + 1, 1), float(number)) for number in numbers]


def test_a_batch_pairs_captions_with_their_videos_and_leaves_out_what_cannot_be_read() -> None:
    records = [VideoRecord(str(number), "train", [f"{number}a", f"{number}b"]) for number in range(3)]

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[int(text[0]), ord(text[1])] for text in texts])

    videos, pairs = (RetrievalData.of(records, Frames(), encode, expand) for expand in (False, True))
    assert (len(videos), len(pairs)) == (3, 6)
    batch = videos.batch([1, 2, 0], lambda index: videos.captions[index][::-1])
    assert batch.text.tolist() == [[1, ord("b")], [0, ord("b")]]
    assert batch.video.tolist() == [1, 0]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.frames[..., 0].tolist() == [[1, 1], [0, 0]]
    both = pairs.batch([0, 1], lambda index: pairs.captions[index])  # two captions of one video
    assert both.text.tolist() == [[0, ord("a")], [0, ord("b")]]
    assert both.video.tolist() == [0, 0]
    with pytest.raises(ClipcapError, match="not one video of a batch can be read"):
        videos.batch([2], lambda index: videos.captions[index])


def test_features_are_read_once_while_there_is_room(tmp_path: Path) -> None:
    store = open_features(write_feature_folder(tmp_path / "features", range(4)))
    source = StoredFrames(store, max_frames=1, room=2 * WIDTH * 4)  # of two videos, a frame each
    first = source.load(store.ids())
    assert list(source.kept) == ["video0", "video1"]
    for found, again in zip(first, source.load(store.ids()), strict=True):
        assert found is not None
        assert again is not None
        assert torch.equal(found, again)
