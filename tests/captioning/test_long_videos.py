"""From a long video to subtitles: what is written, what is left when a run is stopped, and how it goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import srt
import torch

from clipcap_video.captioning import long_videos
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.long_videos import caption_long_video, check_absent
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.streaming import joined
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import Segmentation, SegmentedVideo
from tests.captioning.conftest import SETTINGS, SHOTS, contents, make
from tests.clips import write_shots


class TestAWholeRun:
    def test_captions_are_those_of_the_shots_cut_out(self, captioner: Captioner, talk: Path, tmp_path: Path) -> None:
        done = make(captioner, talk, tmp_path)
        apart = []
        for number, length in enumerate(SHOTS):
            # The colours of a shot follow from its number, so those before it are drawn and left out.
            clip = write_shots(tmp_path / f"shot{number}.mkv", [*[0] * number, length])
            apart.append(captioner.caption(clip, SETTINGS).text)
        assert len(set(apart)) > 2
        together = list(joined(replace(found, start=0.0, end=0.0) for found in _texts(apart)))
        assert [found.text for found in done.predictions] == [found.text for found in together]

    def test_subtitles_and_log_agree(self, captioner: Captioner, talk: Path, tmp_path: Path) -> None:
        done = make(captioner, talk, tmp_path)
        assert sorted(path.name for path in done.files) == ["talk.captions.jsonl", "talk.srt", "talk.vtt"]
        header, *lines, last = (tmp_path / "talk.captions.jsonl").read_text().splitlines()
        assert "talk.mkv" in json.loads(header)["made_by"]["video"]
        assert json.loads(last) == {"finished": True}
        entries = [json.loads(line) for line in lines]
        subtitles = list(srt.parse((tmp_path / "talk.srt").read_text()))
        assert [entry["start"] for entry in entries] == [sub.start.total_seconds() for sub in subtitles]
        assert [entry["end"] for entry in entries[:-1]] == [entry["start"] for entry in entries[1:]]
        for entry, sub in zip(entries, subtitles, strict=True):
            assert sub.end.total_seconds() == pytest.approx(entry["end"], abs=0.0011)
        assert entries[0]["start"] == 0
        assert entries[-1]["end"] == pytest.approx(sum(SHOTS) / 10)
        assert [entry["captions"][0]["text"].split() for entry in entries] == [sub.content.split() for sub in subtitles]

    def test_batches_change_nothing(self, captioner: Captioner, talk: Path) -> None:
        texts = []
        for size in (1, 3, 16):
            video = SegmentedVideo(talk, Segmentation(), SamplingSpec("uniform", 4), captioner.encoder.preprocess)
            batches = list(captioner.caption_batches(video, SETTINGS, batch_size=size))
            assert max(map(len, batches)) <= size
            texts.append([found.text for batch in batches for found in batch])
        assert texts[0] == texts[1] == texts[2]

    def test_whole_is_what_inference_writes(self, captioner: Captioner, talk: Path, tmp_path: Path) -> None:
        done = caption_long_video(captioner, talk, Segmentation("whole"), SETTINGS, folder=tmp_path, progress=False)
        expected = captioner.caption(talk, SETTINGS)
        for found, whole in zip(done.predictions[0].captions, expected.captions, strict=True):
            assert found.text == whole.text
            assert found.logprob == pytest.approx(whole.logprob, abs=1e-4)

    def test_without_keeping_the_log_only_subtitles_are_left(
        self, captioner: Captioner, talk: Path, tmp_path: Path
    ) -> None:
        make(captioner, talk, tmp_path, keep_log=False, to=("srt",))
        assert list(contents(tmp_path)) == ["talk.srt"]


def _texts(texts: list[str]) -> Iterator[Prediction]:
    for text in texts:
        yield Prediction("talk", [Caption(text, -1, -1, 1)])


class TestStoppedRuns:
    @pytest.mark.parametrize("after", [0, 1, 2, 4])
    def test_what_goes_on_ends_as_if_nothing_had_happened(
        self, captioner: Captioner, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
    ) -> None:
        (tmp_path / "a").mkdir()
        make(captioner, talk, tmp_path / "a")
        srt_whole = contents(tmp_path / "a")["talk.srt"]
        real = Captioner.caption_segments
        calls = 0

        def pulled(self: Captioner, *arguments: object) -> list[Prediction]:
            nonlocal calls
            calls += 1
            if calls > after:
                raise KeyboardInterrupt
            return real(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Captioner, "caption_segments", pulled)
        with pytest.raises(KeyboardInterrupt):
            make(captioner, talk, tmp_path / "b")
        monkeypatch.undo()
        left = contents(tmp_path / "b")
        log = left["talk.captions.jsonl"].splitlines()
        assert "finished" not in log[-1]
        if after:
            part, whole = (
                [(sub.start, sub.content) for sub in srt.parse(text)] for text in (left["talk.srt"], srt_whole)
            )
            assert part == whole[: len(part)]
            assert part
        done = make(captioner, talk, tmp_path / "b")
        assert done.finished
        assert done.skipped > 0 or after == 0
        assert contents(tmp_path / "b") == contents(tmp_path / "a")

    def test_a_signal_breaks_off_the_batch_under_way(
        self, captioner: Captioner, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the third token of a batch, not behind it; what was finished before is kept, and the rest made later."""
        make(captioner, talk, tmp_path / "a")
        whole, real, steps = contents(tmp_path / "a"), PrefixCaptioner.start, 0

        def start(self: PrefixCaptioner, *arguments: Any) -> Any:
            state = real(self, *arguments)
            step = state.step

            def counted(*given: Any) -> torch.Tensor:
                nonlocal steps
                steps += 1
                if steps == 12:
                    signal.raise_signal(signal.SIGTERM)
                return step(*given)

            monkeypatch.setattr(state, "step", counted)
            return state

        monkeypatch.setattr(PrefixCaptioner, "start", start)
        done = make(captioner, talk, tmp_path / "b")
        assert (done.finished, steps) == (False, 12)
        monkeypatch.undo()
        assert make(captioner, talk, tmp_path / "b").finished
        assert contents(tmp_path / "b") == whole

    def test_a_finished_log_gives_other_formats_without_work(
        self, captioner: Captioner, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(captioner, talk, tmp_path, to=("srt",))
        monkeypatch.setattr(long_videos, "_continue", None)
        make(captioner, talk, tmp_path, to=("vtt",))
        assert (tmp_path / "talk.vtt").read_text().startswith("WEBVTT")


class TestWhatIsThereAlready:
    def test_subtitles_of_somebody_else_are_kept(self, captioner: Captioner, talk: Path, tmp_path: Path) -> None:
        (tmp_path / "talk.srt").write_text("made by hand")
        with pytest.raises(ClipcapError, match=r"talk\.srt is there already; give --overwrite"):
            make(captioner, talk, tmp_path)
        assert contents(tmp_path) == {"talk.srt": "made by hand"}
        make(captioner, talk, tmp_path, to=("vtt",))
        with pytest.raises(ClipcapError, match=r"talk\.srt is there already; give --overwrite"):
            make(captioner, talk, tmp_path)
        make(captioner, talk, tmp_path, overwrite=True)
        assert "made by hand" not in (tmp_path / "talk.srt").read_text()

    def test_nothing_is_written_for_what_is_no_video(self, captioner: Captioner, tmp_path: Path) -> None:
        file = tmp_path / "notes.mp4"
        file.write_text("this is no video")
        with pytest.raises(VideoError):
            make(captioner, file, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_name_too_long_for_a_log_is_a_bad_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="too long"):
        check_absent(tmp_path / f"{'a' * 250}.mp4")
