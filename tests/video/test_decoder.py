from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from clipcap_video.video import reader, source
from clipcap_video.video.decoder import Decoder, IndexedVideo
from clipcap_video.video.packets import PacketIndex, Unseekable
from clipcap_video.video.reader import SampledVideo
from clipcap_video.video.sampling import SamplingSpec, Span, choose
from tests import clips

FRAMES, RATE = 90, 20
SPECS = [SamplingSpec("uniform", 7), SamplingSpec("tail", 3), SamplingSpec("fps", fps=2, max_frames=6)]
X264 = {"g": "30", "bf": "3", "x264-params": "b-pyramid=normal:ref=3:log-level=none"}
CODINGS = {
    "h264.mp4": ("libx264", X264, "yuv420p"),
    "h264.mkv": ("libx264", X264, "yuv444p"),
    "plain.avi": ("libx264", {"g": "30", "bf": "0", "x264-params": "log-level=none"}, "yuv420p"),
    "mpeg4.mp4": ("mpeg4", {"g": "25", "bf": "2"}, "yuv420p"),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=30:log-level=none"}, "yuv420p"),
    "deep.mp4": ("libx264", X264, "yuv420p10le"),
    "vp9.webm": ("libvpx-vp9", {"g": "30", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}, "yuv420p"),
}
# Read from beginning to end: AVI with B-frames has no times of showing, VP8 has frames that are never shown, ...
REFUSED = {
    "mpeg4.avi": ("mpeg4", {"g": "25", "bf": "2"}, "yuv420p"),
    "h264.avi": ("libx264", X264, "yuv420p"),
    "vp8.webm": ("libvpx", {"deadline": "realtime"}, "yuv420p"),
    "h264.ts": ("libx264", X264, "yuv420p"),
}


def write(path, codec, options, pixels):
    """A clip with numbered frames over a moving pattern."""
    rows, columns = np.mgrid[:96, :128]
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
            stream.codec_context.time_base = Fraction(1, RATE)
            for number in range(FRAMES):
                wave = 20 * np.sin((columns + 2 * number) / 9) * np.cos((rows - number) / 7)
                picture = np.clip(clips.numbered_frame(number, 128, 96) + wave[..., None], 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write {codec} ({error})")
    return path


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("coded"), {}

    def clip(name):
        if name not in made:
            made[name] = write(folder / name, *(CODINGS | REFUSED)[name])
        return made[name]

    return clip


def read(path, spec, span=None, threads=1):
    chunks = list(SampledVideo(path, spec, lambda frames: frames, chunk=2, span=span, threads=threads))
    return (
        np.concatenate([chunk.indices for chunk in chunks]).tolist(),
        np.concatenate([chunk.timestamps for chunk in chunks]),
        torch.cat([chunk.images for chunk in chunks]),
    )


def walk(path, spec, span=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "IndexedVideo", refuse)
        return read(path, spec, span)


def refuse(*args):
    raise Unseekable


@pytest.fixture
def opened(monkeypatch):
    """The files that are read from beginning to end."""
    found = []
    plain = Decoder.frames

    def noting(self, start=0.0):
        found.append(self.path)
        return plain(self, start)

    monkeypatch.setattr(Decoder, "frames", noting)
    return found


def assert_same(one, other):
    assert one[0] == other[0]
    np.testing.assert_allclose(one[1], other[1], atol=1e-9)
    assert torch.equal(one[2], other[2])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.sampling)
@pytest.mark.parametrize("name", CODINGS)
def test_kept_frames_are_those_of_a_whole_decoding_to_the_bit(coded, name, spec, opened):
    path = coded(name)
    picked = read(path, spec)
    assert not opened
    assert picked[0] == choose(spec, np.arange(FRAMES) / RATE).tolist()
    assert clips.numbers_in(picked[2]) == picked[0]
    assert_same(picked, walk(path, spec))


@pytest.mark.parametrize("small", [0, 2**24], ids=["read twice", "in memory"])
def test_every_frame_and_a_part(coded, opened, small, monkeypatch):
    monkeypatch.setattr(source, "SMALL", small)
    path = coded("h264.mp4")
    every = read(path, SamplingSpec("uniform", 1000), threads=3)
    part = read(path, SamplingSpec("uniform", 4), Span(1.51, 3.2), threads=3)
    assert not opened
    assert_same(every, walk(path, SamplingSpec("uniform", 1000)))
    assert every[0] == list(range(FRAMES))
    assert_same(part, walk(path, SamplingSpec("uniform", 4), Span(1.51, 3.2)))


@pytest.mark.parametrize("name", REFUSED)
def test_files_whose_packets_do_not_tell_are_read_from_beginning_to_end(coded, name, opened):
    found = read(coded(name), SamplingSpec("uniform", 7))
    assert len(opened) == 1
    assert clips.numbers_in(found[2]) == found[0] == choose(SamplingSpec("uniform", 7), np.arange(FRAMES)).tolist()


def test_frames_that_nobody_needs_are_not_decoded(coded):
    with Decoder(coded("h264.mp4"), 1) as decoder:
        video = IndexedVideo(decoder)
        index = video.index
        # The key frames are 0, 30 and 60; frame 37 needs nothing that is shown before 30.
        decoded = [frame.pts for frame in video._decoded(index.needed([37]), {int(index.stamps[index.order[37]]): 37})]
        shown = np.searchsorted(index.stamps[index.order], sorted(decoded)).tolist()
    assert 37 in shown
    assert min(shown) >= 30
    assert max(shown) < 44
    assert len(shown) < 7  # half of them or fewer


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm"])
@pytest.mark.parametrize("fault", ["blank", "flip", "cut"])
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_what_a_whole_decoding_gives(coded, tmp_path, name, fault, seed):
    data = bytearray(coded(name).read_bytes())
    random = np.random.default_rng(seed)
    place = int(random.integers(len(data) // 10, len(data) * 8 // 10))
    if fault == "blank":
        data[place : place + 300] = bytes(300)
    elif fault == "flip":
        data[place] ^= 1 << int(random.integers(8))
    path = tmp_path / name
    path.write_bytes(data[:place] if fault == "cut" else data)
    try:
        whole = walk(path, SPECS[0])
    except reader.VideoError as error:
        with pytest.raises(reader.VideoError, match=f"^{str(error)[:20]}"):
            read(path, SPECS[0])
    else:
        assert_same(read(path, SPECS[0]), whole)


def test_a_turned_video(coded, tmp_path, opened):
    path = tmp_path / "turned.mp4"
    path.write_bytes(coded("h264.mp4").read_bytes())
    clips.rotate_quarter(path)
    picked = read(path, SPECS[0])
    assert not opened
    assert picked[2].shape[2:] == (128, 96)
    assert_same(picked, walk(path, SPECS[0]))


def test_uneven_times_are_those_of_the_packets(tmp_path, opened):
    path = clips.write_clip(tmp_path / "uneven.mp4", FRAMES, RATE)
    step = clips.time_scale(path) // RATE
    clips.set_frame_durations(path, [step * (1 + number % 3) for number in range(FRAMES)])
    spec = SamplingSpec("uniform", 4, fps=1)
    picked = read(path, spec)
    assert not opened
    assert_same(picked, walk(path, spec))
    assert clips.numbers_in(picked[2]) == picked[0]


@pytest.mark.parametrize("fault", ["shifted", "swapped"])
def test_a_wrong_index_is_noticed_and_the_video_walked(coded, fault, monkeypatch, opened):
    path = coded("h264.mp4")
    whole = walk(path, SPECS[0])
    opened.clear()
    plain = Decoder.index

    def wrong(self):
        index = plain(self)
        stamps = index.stamps.copy()
        stamps[40:] += 7 if fault == "shifted" else np.where(np.arange(40, FRAMES) % 2, 3 * (stamps[1] - stamps[0]), 0)
        return PacketIndex(stamps, index.keys, index.unit)

    monkeypatch.setattr(Decoder, "index", wrong)
    assert_same(read(path, SPECS[0]), whole)
    assert len(opened) == 1


def test_key_frames_are_decoded_by_themselves(coded) -> None:
    path = coded("h264.mp4")
    numbers, times, images = read(path, SamplingSpec("uniform", 3, key_frames=True))
    assert numbers == [0, 30, 89]  # of 0, 44, 89 and key frames at 0, 30, 60
    everything = walk(path, SamplingSpec("uniform", FRAMES))
    assert torch.equal(images, everything[2][numbers])
    assert times.tolist() == everything[1][numbers].tolist()
    with Decoder(path) as decoder:
        video = IndexedVideo(decoder)
        assert video.index.key_frames.tolist() == [0, 30, 60]
        assert video.index.needed([0, 30]).sum() == 2
    # A file that cannot be read by its packets gives the frames that it would give without.
    assert walk(path, SamplingSpec("uniform", 3, key_frames=True))[0] == [0, 44, 89]
