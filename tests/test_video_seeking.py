import numpy as np
import pytest
import torch

from clipcap_video.video import reader
from clipcap_video.video.reader import Decoder, SampledVideo
from clipcap_video.video.sampling import SamplingSpec, choose
from clipcap_video.video.seeking import PacketIndex, Unseekable, read_index
from tests import clips

FRAMES, RATE = 400, 20
SPECS = [SamplingSpec("uniform", 5), SamplingSpec("tail", 3), SamplingSpec("fps", fps=0.5, max_frames=6)]


def shrink(frames):
    return frames[:, :, ::2, ::2].contiguous()


def read(path, spec):
    chunks = list(SampledVideo(path, spec, shrink, chunk=2))
    return (
        np.concatenate([chunk.indices for chunk in chunks]).tolist(),
        np.concatenate([chunk.timestamps for chunk in chunks]),
        torch.cat([chunk.images for chunk in chunks]),
    )


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "long.mp4", FRAMES, RATE)


@pytest.fixture
def grabs(monkeypatch):
    """Counts the frames that are decoded one by one, not those that OpenCV passes on its own."""
    counted = []
    plain = Decoder.__iter__

    def counting(self):
        for time in plain(self):
            counted.append(time)
            yield time

    monkeypatch.setattr(Decoder, "__iter__", counting)
    return counted


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.sampling)
def test_jumping_gives_what_walking_gives(long_clip, spec, monkeypatch, grabs):
    walked = read(long_clip, spec)
    assert len(grabs) >= FRAMES
    grabs.clear()
    monkeypatch.setattr(reader, "LONG", 100)
    jumped = read(long_clip, spec)
    assert not grabs
    assert jumped[0] == walked[0] == choose(spec, np.arange(FRAMES) / RATE).tolist()
    assert clips.numbers_in(jumped[2]) == jumped[0]
    np.testing.assert_array_equal(jumped[1], walked[1])
    assert torch.equal(jumped[2], walked[2])


def test_uneven_times_are_those_of_the_packets(tmp_path, monkeypatch, grabs):
    path = clips.write_clip(tmp_path / "uneven.mp4", FRAMES, RATE)
    step = clips.time_scale(path) // RATE
    clips.set_frame_durations(path, [step * (1 + number % 3) for number in range(FRAMES)])
    spec = SamplingSpec("uniform", 4, fps=1)
    walked = read(path, spec)
    monkeypatch.setattr(reader, "LONG", 100)
    jumped = read(path, spec)
    assert jumped[0] == walked[0]
    np.testing.assert_array_equal(jumped[1], walked[1])
    assert clips.numbers_in(jumped[2]) == jumped[0]


@pytest.mark.parametrize("fault", ["shifted", "swapped"])
def test_a_wrong_index_is_noticed_and_the_video_walked(long_clip, fault, monkeypatch, grabs):
    index = read_index(long_clip)
    assert index is not None
    times = index.times.copy()
    times[150:] += 7.0 if fault == "shifted" else np.where(np.arange(150, FRAMES) % 2, 4.0, 0.0)
    spec = SamplingSpec("uniform", 5)
    walked = read(long_clip, spec)
    grabs.clear()
    monkeypatch.setattr(reader, "LONG", 100)
    monkeypatch.setattr(reader, "read_index", lambda _: PacketIndex(times, index.keys))
    found = read(long_clip, spec)
    assert len(grabs) >= FRAMES
    assert found[0] == walked[0]
    assert torch.equal(found[2], walked[2])


def test_no_index_where_packets_tell_no_times(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    assert read_index(path) is None


def test_cost_counts_from_the_key_frame_that_opencv_lands_on():
    index = PacketIndex(np.arange(1000.0), np.array([0, 250, 500, 750]))
    # 10 is walked to from 0; 260 lies within OpenCV's margin of key frame 250, so decoding begins at 0 again, but
    # the decoder already stands at 10; 600 begins at 500.
    assert index.cost([10, 260, 600]) == 11 + 250 + 101


def test_a_decoder_that_stands_elsewhere_is_refused(long_clip):
    index = read_index(long_clip)
    assert index is not None
    with Decoder(long_clip) as decoder:
        next(iter(decoder))
        with pytest.raises(Unseekable):
            list(decoder.visit(index, [5]))
