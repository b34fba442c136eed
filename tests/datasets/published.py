"""Samples of published annotation files, in their true formats."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def assert_refused(path: Path, content: object, message: str) -> None:
    """Reading `content` from `path` ends in one sentence that `message` matches."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ClipcapError, match=message) as caught:
        read_annotations([path])
    assert "\n" not in str(caught.value)


def msrvtt(**fields: object) -> dict[str, object]:
    """MSR-VTT 2016's layout: sentences are in no order, of videos or of sen_id."""

    def video(number: int, split: str) -> dict[str, object]:
        return {
            "category": 9,
            "url": "https://www.youtube.com/watch?v=9lZi22qLlEo",
            "video_id": f"video{number}",
            "start time": 137.72,
            "end time": 149.44,
            "split": split,
            "id": number,
        }

    def sentence(sen_id: int, number: int, caption: str) -> dict[str, object]:
        return {"sen_id": sen_id, "video_id": f"video{number}", "caption": caption}

    content: dict[str, object] = {
        "info": {"year": "2016", "version": "1.0"},
        "videos": [video(2, "train"), video(0, "validate"), video(10, "test")],
        "sentences": [
            sentence(7, 2, " a car is\n shown "),
            sentence(0, 0, "in a town"),
            sentence(3, 2, "a man drives"),
            sentence(4, 2, "  "),
        ],
    }
    return {**content, **fields}


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


LSMDC_CLIPS = [
    "0001_American_Beauty_00.00.51.926-00.00.54.129",
    "1006_Slumdog_Millionaire_01.25.49.077-01.25.54.718",
    "3011_BLIND_DATING_01.11.23.496-01.11.25.853",
]


def lsmdc_line(clip: str, *sentence: str) -> str:
    return "\t".join([clip, "00.00.51.926", "00.00.54.129", "00.00.51.875", "00.00.54.250", *sentence]) + "\n"


def didemo_entry(video: str, description: str, times: list[list[int]]) -> dict[str, object]:
    return {
        "reference_description": "none", "description": description, "context": [], "times": times,
        "dl_link": "https://www.flickr.com/video_download.gne?id=2408598493", "video": video, "num_segments": 6,
        "annotation_id": 7,
    }  # fmt: skip


ACTIVITYNET = {
    "v_QOlSCBRmfWY": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]],
        "sentences": ["A woman is seen standing in a room.", " She dances around.", " She ends by bowing."],
    },
    # Reversed, and past the end, as some of the published times are.
    "v_ehGHCYKzyZ8": {"duration": 61.72, "timestamps": [[30.5, 10], [40, 61.9]], "sentences": ["A ship.", "Divers."]},
}


def karpathy_image(name: str, split: str, *captions: str, **fields: object) -> dict[str, object]:
    sentences = [
        {"tokens": caption.split(), "raw": caption, "imgid": 0, "sentid": number}
        for number, caption in enumerate(captions)
    ]
    return {"sentids": [0], "imgid": 0, "sentences": sentences, "split": split, "filename": name, **fields}


KARPATHY = {
    "images": [
        karpathy_image("COCO_val2014_000000391895.jpg", "test", "A man on a bike.", cocoid=391895, filepath="val2014"),
        karpathy_image("COCO_val2014_000000060623.jpg", "restval", "A girl", "Two girls", cocoid=60623),
    ],
    "dataset": "coco",
}
VATEX = [
    {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A man lifts weights."], "chCap": ["一个男人在举重。"]},
    {"videoID": "N8m5oBLSGWc_000009_000019", "enCap": ["A dog."], "chCap": ["一只狗。"]},
]
GIF = "https://38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_mevmyaKtDf1rgvhr8o1_500.gif"
CHARADES = (
    "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    "YSKX3,SBGF,Bedroom,7,7,Yes,A person puts a picture onto the wall.,picture;wall,"
    '"A person puts a picture on the wall, then leaves.;They look at it.",c115 0.00 13.10,32.12\n'
    "00607,W2XP,Kitchen,6,7,No,Nothing.,,,,30.00\n"
)
YOUCOOK2 = {
    "database": {
        "GLd3aX16zBg": {
            "duration": 241.62, "subset": "training", "recipe_type": "113",
            "annotations": [
                {"segment": [90, 102], "id": 0, "sentence": "spread margarine on two slices of white bread"},
                {"segment": [114, 300], "id": 1, "sentence": "place cheese on top"},
            ],
            "video_url": "https://www.youtube.com/watch?v=GLd3aX16zBg",
        },
        "xHr8X2Wpmno": {"duration": 9.5, "subset": "testing", "annotations": [{"segment": [1, 4], "id": 0}]},
    }
}  # fmt: skip
WEBVID = (
    "videoid,contentUrl,duration,page_dir,name\n"
    "21179416,https://ak.picdn.net/shutterstock/videos/21179416/preview/stock-footage-aerial.mp4,PT00H00M11S,"
    '006001_006050,"Aerial shot winter forest, day"\n'
)
