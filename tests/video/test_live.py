"""Live sources: all frames where the reader keeps up, the newest where it does not; one sentence where none come."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from clipcap_video.errors import VideoError
from clipcap_video.video import live
from clipcap_video.video.live import LiveClock, LiveVideo, shown_place
from tests.clips import write_clip
from tests.streams import TcpServer, running, write_stream


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 40 frames, with a key frame a second."""
    return write_stream(tmp_path_factory.mktemp("stream") / "stream.ts", [40, 40], fps=40)


class TestTheClock:
    def test_a_reader_that_waits_for_each_packet_is_not_behind(self) -> None:
        clock = LiveClock()
        for number in range(100):
            clock.add(number / 25, 100 + number / 25, 0.03)
            assert clock.behind < 0.01
        assert clock.is_live(104.0)
        assert not clock.is_live(110.0)

    def test_a_slow_one_is_behind_by_what_it_took_longer(self) -> None:
        clock = LiveClock()
        clock.add(0.0, 100.0, 0.03)
        for number in range(1, 101):  # 60 ms for frames of 40 ms, never a wait
            clock.add(number / 25, 100 + number * 0.06, 0.0)
        assert clock.behind == pytest.approx(100 * 0.02)

    def test_short_waits_which_may_be_for_the_processor_settle_little(self) -> None:
        clock = LiveClock()
        clock.add(0.0, 100.0, 0.03)
        for number in range(1, 101):
            clock.add(number / 25, 100 + number * 0.06, 0.015)
        assert clock.behind == pytest.approx(100 * (0.02 - LiveClock.SETTLED), abs=0.02)
        clock.add(101 / 25, 107.0, 0.3)  # it was the source that had nothing
        assert clock.behind == 0

    def test_what_is_there_already_is_ahead_until_its_end_is_reached(self) -> None:
        clock = LiveClock()
        for number in range(1000):
            clock.add(number / 25, 100 + number / 1000, 0.0)
        assert clock.behind < -30
        assert not clock.is_live(101.0)
        clock.add(40.0, 101.1, 0.05)
        assert clock.behind == 0

    def test_a_clock_that_restarts_is_no_delay(self) -> None:
        clock = LiveClock()
        clock.add(5000.0, 100.0, 0.0)
        clock.add(0.0, 100.1, 0.0)
        assert clock.behind == 0


def times_of(place: str, patience: float = 0.3, stop: threading.Event | None = None) -> list[float]:
    with LiveVideo(place, patience, stop or threading.Event()) as video:
        times = [frame.time for frame in video]
        assert video.dropped == 0
    return times


def test_a_growing_file_is_read_to_where_it_stops_growing(stream: Path, tmp_path: Path) -> None:
    data, growing = stream.read_bytes(), tmp_path / "growing.ts"
    growing.write_bytes(data[: len(data) // 2])

    def grow() -> None:
        with growing.open("ab", buffering=0) as file:
            for start in range(len(data) // 2, len(data), 2000):
                file.write(data[start : start + 2000])
                time.sleep(0.01)

    writer = threading.Thread(target=grow)
    writer.start()
    times = times_of(str(growing))
    writer.join()
    assert times == pytest.approx([number / 40 for number in range(80)], abs=0.001)


def test_a_pipe_is_read_to_its_end(stream: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(stream.read_bytes()))
    writer.start()
    assert len(times_of(str(pipe))) == 80
    writer.join()


def test_a_stream_over_tcp_ends_as_one_that_comes_back(stream: Path) -> None:
    with running(TcpServer(stream, 0.2)) as server:
        assert len(times_of(server.url)) == 80
        with LiveVideo(server.url, 1.0, threading.Event()) as video:
            assert video.lasts


def test_who_is_too_slow_drops_frames_and_does_not_lag(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_BEHIND", 0.3)
    monkeypatch.setattr(live, "KEY_FRAME_SECONDS", 0.2)
    with running(TcpServer(stream, 2.0)) as server, LiveVideo(server.url, 1.0, threading.Event()) as video:
        began, seen = time.monotonic(), []
        for frame in video:
            seen.append((time.monotonic() - began, frame.time))
            time.sleep(0.05)  # of a frame that lasts 0.025
        assert video.dropped > 10
        assert len(seen) + video.dropped == 80
    assert [shown for _, shown in seen] == sorted(shown for _, shown in seen)
    assert max(at - shown for at, shown in seen) < 1.5


def test_a_frame_that_waits_for_its_key_frame_is_not_counted_as_dropped(stream: Path, tmp_path: Path) -> None:
    joined = tmp_path / "joined.ts"  # from the middle of the first second on
    data = stream.read_bytes()
    joined.write_bytes(data[188 * (len(data) // 188 // 4) :])
    assert 38 <= len(times_of(str(joined))) <= 60


def test_stop_ends_it(stream: Path) -> None:
    stop = threading.Event()
    with running(TcpServer(stream, 2.0)) as server, LiveVideo(server.url, 5.0, stop) as video:
        for _ in video:
            stop.set()
    assert stop.is_set()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere.ts", "there is no such file or device"),
        (".", "it is a folder"),
        ("/dev/null", "check that it is a camera"),
        ("tcp://127.0.0.1:9", "refused"),
        ("rtsp://127.0.0.1:9/live", "check the address"),
        ("nonsense://there", "Protocol not found"),
        ("notes.ts", "must be MPEG-TS, Matroska or fragmented MP4"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.ts").write_text("this is no video")
    with pytest.raises(VideoError, match=f"^cannot open .*{said}"):
        LiveVideo(place, 0.2, threading.Event())


def test_a_finished_file_that_has_to_be_sought_in_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "finished.mp4", frames=60, size=(640, 480))
    with pytest.raises(VideoError, match="finished files with caption"):
        times_of(str(clip))


def test_what_a_source_names_is_not_opened(stream: Path, tmp_path: Path) -> None:
    playlist = tmp_path / "list.ts"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{stream}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        times_of(str(playlist))


def test_passwords_are_not_shown() -> None:
    assert shown_place("rtsp://me:secret@camera.local/live?x=a@b") == "rtsp://camera.local/live?x=a@b"
    with pytest.raises(VideoError) as error:
        LiveVideo("rtsp://me:secret@127.0.0.1:9/live", 0.2, threading.Event())
    assert "secret" not in str(error.value)
