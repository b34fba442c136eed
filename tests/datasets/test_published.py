"""Readers of the published datasets, each on small files in the true format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from tests.datasets.test_annotations import write

# MSVD ---------------------------------------------------------------------------------------------------------------

CLIPS = ["-4wsuPCjDBc_5_15", "-7KMZQEsJW4_205_208", "zzit5b_-ukg_5_20"]
MSVD = {
    CLIPS[0]: ["a squirrel is eating a peanut in it's shell", "a chipmunk is eating"],
    CLIPS[1]: ["a man is playing a guitar, loudly"],
    CLIPS[2]: ["the women are dancing", "two women dance"],
}
EXPECTED_MSVD = [
    VideoRecord(CLIPS[0], "train", MSVD[CLIPS[0]]),
    VideoRecord(CLIPS[1], "validate", MSVD[CLIPS[1]]),
    VideoRecord(CLIPS[2], "test", MSVD[CLIPS[2]]),
]


def msvd_lists(folder: Path) -> list[Path]:
    names = zip(("train", "val", "test"), CLIPS, strict=True)
    return [write(folder / f"{split}_list.txt", f"{clip}\n") for split, clip in names]


def msvd_pickle(folder: Path, protocol: int = 2) -> Path:
    file = folder / "raw-captions.pkl"
    tokens = {clip: [caption.split() for caption in captions] for clip, captions in MSVD.items()}
    file.write_bytes(pickle.dumps(tokens, protocol=protocol))
    return file


# LSMDC --------------------------------------------------------------------------------------------------------------

LSMDC_CLIPS = [
    "0001_American_Beauty_00.00.51.926-00.00.54.129",
    "1006_Slumdog_Millionaire_01.25.49.077-01.25.54.718",
    "3011_BLIND_DATING_01.11.23.496-01.11.25.853",
]


def lsmdc_line(clip: str, *sentence: str) -> str:
    return "\t".join([clip, "00.00.51.926", "00.00.54.129", "00.00.51.875", "00.00.54.250", *sentence]) + "\n"


# DiDeMo -------------------------------------------------------------------------------------------------------------


def didemo_entry(video: str, description: str, times: list[list[int]]) -> dict[str, object]:
    return {
        "reference_description": "none", "description": description, "context": [], "times": times,
        "dl_link": "https://www.flickr.com/video_download.gne?id=2408598493", "video": video, "num_segments": 6,
        "annotation_id": 7,
    }  # fmt: skip


# ActivityNet Captions -----------------------------------------------------------------------------------------------

ACTIVITYNET = {
    "v_QOlSCBRmfWY": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]],
        "sentences": ["A woman is seen standing in a room.", " She dances around.", " She ends by bowing."],
    },
    # Reversed, and past the end, as some of the published times are.
    "v_ehGHCYKzyZ8": {"duration": 61.72, "timestamps": [[30.5, 10], [40, 61.9]], "sentences": ["A ship.", "Divers."]},
}


# Malformed files ----------------------------------------------------------------------------------------------------


def assert_refused(path: Path, content: object, message: str) -> None:
    """Reading `content` from `path` ends in one sentence that `message` matches."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ClipcapError, match=message) as caught:
        read_annotations([path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.json", ACTIVITYNET, "the name of .*captions.json does not tell its split"),
        ("train_val_list.txt", "clip_1_2\n", "does not tell its split"),
        ("train.json", {"v_x": {"timestamps": [], "sentences": []}}, "'v_x' lacks the field 'duration'; expected"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [[0, 1]], "sentences": []}}, "'v_x' is malformed"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [[0]], "sentences": ["a"]}}, "'v_x' is malformed"),
        ("train.json", {"v_x": {"duration": 1, "timestamps": [["a", 1]], "sentences": ["a"]}}, "'v_x' is malformed"),
        ("train_data.json", [{"description": "x"}], "entry 0 lacks the field 'video'; expected"),
        ("train_data.json", [didemo_entry("v.avi", "x", [])], "entry 0 is malformed"),
        ("train_data.json", [didemo_entry("v.avi", "x", [[3]])], "entry 0 is malformed"),
        ("train_data.json", [didemo_entry("v.avi", "x", [[9, 2]])], "a part of a video cannot go from 45.0 to 15.0"),
        ("LSMDC16_annos_val.csv", lsmdc_line(LSMDC_CLIPS[0], "x") + "y\n", "the line 'y' is not a clip id, four times"),
        ("youtube_mapping.txt", "a_1_2 vid1\nb_1_2 vid1971\n", "'b_1_2 vid1971' is not a clip id and one of vid1 to"),
        ("AllVideoDescriptions.txt", "a_1_2 a dog\nb a cat\n", "'b a cat' is not a clip id"),
        ("video_corpus.csv", "VideoID,Start,End,Description\nx,,2,a dog\n", "line 2 lacks VideoID, Start or End"),
        (
            "MSRVTT_JSFUSION_test.csv",
            "key,vid_key,video_id,sentence\nret0,msr1,,x\n",
            "line 2 has no text in",
        ),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, name: str, content: object, message: str) -> None:
    assert_refused(tmp_path / name, content, message)
