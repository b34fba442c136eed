"""Features that were made before there was one decoder, of videos of a kind that was read wrongly then."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clipcap_video.doctor.findings import Finding
from clipcap_video.features.store import SUFFIX, read_header, read_origin
from clipcap_video.video.decoder import Decoder, Frame
from clipcap_video.video.files import shown
from clipcap_video.video.packets import NO_STAMP
from clipcap_video.video.picture import HIGH_RANGE, is_mirrored, shown_size, transfer_of

# Of these kinds the pictures were wrong, and not which frames or when: under `--sampling reference` they stay so.
PICTURES = ("interlaced", "mirrored by its display matrix", "pixels are not square", "high dynamic range")


class Kinds:
    """Takes a video's frames as they are decoded, and tells of which kinds it is that were read wrongly before."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._found: dict[str, bool] = {}

    def look(self, frame: Frame) -> None:
        raw = frame.raw
        self._found["interlaced"] = self._found.get("interlaced", False) or frame.interlaced
        if frame.number == 0:
            source = self._decoder.source
            size = shown_size(raw.width, raw.height, source.aspect)
            self._found["mirrored by its display matrix"] = is_mirrored(frame.matrix)
            self._found["pixels are not square"] = size != (raw.width, raw.height)
            self._found["high dynamic range"] = transfer_of(raw) in HIGH_RANGE

    def all(self, times: np.ndarray) -> tuple[str, ...]:
        """times: of all frames, seconds."""
        decoder, stamps = self._decoder, self._decoder.source.table.stamps
        known = np.sort(stamps[stamps != NO_STAMP])
        span = float(known[-1] - known[0]) * decoder.source.unit if len(known) else 0.0
        steps = np.diff(times)
        uneven = len(steps) > 0 and float(np.ptp(steps)) > 0.003
        kinds = {
            **self._found,
            "tells times of decoding": decoder.source.is_indexed and decoder.reorders_by_decoding_times,
            "its clock restarts": decoder.source.restarts and len(times) > 1 and span > 2 * float(times[-1]) + 1,
            "equal or missing time stamps": uneven and (len(set(known.tolist())) < len(stamps)),
            "not the first video stream of its file": not decoder.source.is_first,
            "damaged": bool(decoder.damage),
        }
        return tuple(kind for kind, is_so in kinds.items() if is_so)


def made_before(data: Path, videos: Mapping[str, tuple[Path, Sequence[str]]]) -> tuple[list[Finding], list[str]]:
    """Findings about features that an earlier decoder made of videos that it read wrongly, and the command that makes
    just these again. videos: id of the features -> (file, its kinds as `Kinds` tells them)."""
    findings, files = [], []
    for video_id, (path, kinds) in videos.items():
        file = data / f"{video_id}{SUFFIX}"
        if not kinds or not file.is_file() or read_origin(file).decoder is not None:
            continue
        if read_header(file)[0].sampling.sampling == "reference":
            kinds = [kind for kind in kinds if kind not in PICTURES]
        if kinds:
            said = f"{shown(path)} was read wrongly before: {', '.join(kinds)}"
            findings.append(Finding("old_features", video_id, said, (str(file), shown(path))))
            files.append(path)
    return findings, [_command(data, list(dict.fromkeys(files)))] if files else []


def _command(data: Path, files: Sequence[Path]) -> str:
    options = f"--config {shlex.quote(str(data / 'run.yaml'))}" if (data / "run.yaml").is_file() else ""
    options = options or f"--out {shlex.quote(str(data))} and the options of then"
    named = " ".join(f"--videos {shlex.quote(shown(path))}" for path in files)
    return f"to make old_features again: clipcap-video extract {options} --overwrite {named}"
