"""Readers of the published datasets, each on small files in the true format."""

from __future__ import annotations

import json
import os
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_features, match_videos
from clipcap_video.datasets.records import VideoRecord, splits
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span
from tests.datasets.test_annotations import msrvtt, write

# MSR-VTT ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def msrvtt_data(tmp_path: Path) -> Path:
    """MSRVTT_data.json: all videos and sentences, under the official split."""
    videos = [
        {"video_id": f"video{number}", "split": split, "category": 1, "url": "https://www.youtube.com/watch?v=x",
         "start time": 0.0, "end time": 10.0, "id": number}
        for number, split in enumerate(["train", "train", "validate", "test", "test", "test"])
    ]  # fmt: skip
    sentences = [
        {"caption": f"{word} of {number}", "video_id": f"video{number}", "sen_id": 10 * number + turn}
        for number in range(6)
        for turn, word in enumerate(("one", "two"))
    ]
    return write(tmp_path / "MSRVTT_data.json", msrvtt(videos=videos, sentences=sentences))


def jsfusion_test(folder: Path) -> Path:
    text = (
        "key,vid_key,video_id,sentence\n"
        "ret0,msr4,video4,a person is connecting something to system\n"
        'ret1,msr5,video5,"a little girl, does gymnastics"\n'
    )
    return write(folder / "MSRVTT_JSFUSION_test.csv", text)


def test_msrvtt_full_split_is_that_of_the_json(msrvtt_data: Path) -> None:
    assert splits(read_annotations([msrvtt_data])) == {"train": 2, "validate": 1, "test": 3}


@pytest.mark.parametrize(
    ("name", "train"),
    [("MSRVTT_train.9k.csv", [0, 1, 2, 3]), ("MSRVTT_train.7k.csv", [0, 1, 2])],
)
def test_msrvtt_1k_test_and_its_two_training_lists(
    tmp_path: Path, msrvtt_data: Path, name: str, train: list[int]
) -> None:
    listed = write(tmp_path / name, "video_id\n" + "".join(f"video{number}\n" for number in train))
    for order in ([msrvtt_data, listed, jsfusion_test(tmp_path)], [jsfusion_test(tmp_path), listed, msrvtt_data]):
        records = {record.video_id: record for record in read_annotations(order)}
        # video2, officially for validation, is trained on; of the test videos one sentence each is the query.
        assert {name for name, record in records.items() if record.split == "train"} == {f"video{n}" for n in train}
        assert records["video2"].captions == ["one of 2", "two of 2"]
        assert records["video5"] == VideoRecord("video5", "test", ["a little girl, does gymnastics"])
        assert len(records) == len(train) + 2


def test_msrvtt_test_list_alone(tmp_path: Path) -> None:
    records = read_annotations([jsfusion_test(tmp_path)])
    assert [(record.video_id, record.split, len(record.captions)) for record in records] == [
        ("video4", "test", 1),
        ("video5", "test", 1),
    ]


def test_lists_that_overlap_are_refused(tmp_path: Path, msrvtt_data: Path) -> None:
    train = write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo4\n")
    with pytest.raises(ClipcapError, match=r"'video4' is in split 'train' in .*9k\.csv and in split 'test'"):
        read_annotations([msrvtt_data, train, jsfusion_test(tmp_path)])


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


def msvd_corpus(folder: Path) -> Path:
    """Captions of all languages, quoted where they hold commas; some English lines are empty."""
    rows = ["VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"]
    for clip, captions in MSVD.items():
        video, start, end = clip.rsplit("_", 2)
        rows.append(f"{video},{start},{end},588702,clean,55,Slovene,Veverica je oreh.")
        rows += [f'{video},{start},{end},703110,unverified,12,English,"{caption}"' for caption in captions]
        rows.append(f"{video},{start},{end},703110,unverified,12,English,")
    return write(folder / "MSR Video Description Corpus.csv", "\r\n".join(rows) + "\r\n")


def msvd_descriptions(folder: Path) -> Path:
    lines = ["# Sentences of the Microsoft Research Video Description Corpus", ""]
    lines += [f"{clip} {caption}" for clip, captions in MSVD.items() for caption in captions]
    return write(folder / "AllVideoDescriptions.txt", "\n".join(lines) + "\n")


def msvd_pickle(folder: Path, protocol: int = 2) -> Path:
    file = folder / "raw-captions.pkl"
    tokens = {clip: [caption.split() for caption in captions] for clip, captions in MSVD.items()}
    file.write_bytes(pickle.dumps(tokens, protocol=protocol))
    return file


@pytest.mark.parametrize("captions", [msvd_corpus, msvd_descriptions, msvd_pickle])
def test_msvd_captions_in_each_form_with_the_split_lists(tmp_path: Path, captions) -> None:  # type: ignore[no-untyped-def]
    assert read_annotations([captions(tmp_path), *msvd_lists(tmp_path)]) == EXPECTED_MSVD


def test_msvd_split_by_the_mapping(tmp_path: Path) -> None:
    numbers = [1, 1200, 1201, 1300, 1301, 1970]
    clips = [f"clip{number}_1_2" for number in numbers]
    text = "".join(f"{clip} vid{number}\r\n" for clip, number in zip(clips, numbers, strict=True))
    mapping = write(tmp_path / "youtube_mapping.txt", text)
    captions = write(tmp_path / "AllVideoDescriptions.txt", "".join(f"{clip} a dog runs\n" for clip in clips))
    records = read_annotations([captions, mapping])
    assert splits(records) == {"train": 2, "validate": 2, "test": 2}
    assert all(record.captions == ["a dog runs"] for record in records)
    # Features, video files and captions of others may go by the mapping's names.
    matched = match_features(records, ["vid1200", "clip1970_1_2"])
    assert [(record.video_id, record.split) for record in matched.records] == [
        ("vid1200", "train"),
        ("clip1970_1_2", "test"),
    ]
    assert match_videos(records, {"vid1": Path("vid1.avi")}).videos == {"vid1": Path("vid1.avi")}
    renamed = write(tmp_path / "own.csv", "video,caption\nvid1.avi,a cat sleeps\n")
    assert read_annotations([renamed, mapping])[0].captions == ["a cat sleeps"]


def test_msvd_captions_without_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"AllVideoDescriptions\.txt does not say which split .*train_list\.txt"):
        read_annotations([msvd_descriptions(tmp_path)])
    # Which split a video is in does not matter to who extracts its features.
    assert len(read_annotations([msvd_descriptions(tmp_path)], need_splits=False)) == 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    assert read_annotations([msvd_pickle(tmp_path, protocol), *msvd_lists(tmp_path)]) == EXPECTED_MSVD
    kept: defaultdict[str, list] = defaultdict(list, {CLIPS[0]: ["a dog"]})
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(kept, protocol=protocol))
    assert read_annotations([tmp_path / "raw-captions.pkl", *msvd_lists(tmp_path)])[0].captions == ["a dog"]


class Attack:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "raw-captions.pkl"
    file.write_bytes(pickle.dumps({CLIPS[0]: [Attack()]}, protocol=protocol))
    with pytest.raises(ClipcapError, match=r"it asks for posix\.mkdir"):
        read_annotations([file])
    assert not (tmp_path / "pwned").exists()
    file.write_bytes(pickle.dumps({CLIPS[0]: [["a", "dog"]]}, protocol=protocol)[:-4])
    with pytest.raises(ClipcapError, match="is not a whole pickle"):
        read_annotations([file])


# LSMDC --------------------------------------------------------------------------------------------------------------

LSMDC_CLIPS = [
    "0001_American_Beauty_00.00.51.926-00.00.54.129",
    "1006_Slumdog_Millionaire_01.25.49.077-01.25.54.718",
    "3011_BLIND_DATING_01.11.23.496-01.11.25.853",
]


def lsmdc_line(clip: str, *sentence: str) -> str:
    return "\t".join([clip, "00.00.51.926", "00.00.54.129", "00.00.51.875", "00.00.54.250", *sentence]) + "\n"


def test_lsmdc_clips_may_have_several_sentences(tmp_path: Path) -> None:
    train = lsmdc_line(LSMDC_CLIPS[0], 'He says "go, now".') + lsmdc_line(LSMDC_CLIPS[0], "SOMEONE runs.")
    files = [
        write(tmp_path / "LSMDC16_annos_training.csv", train),
        write(tmp_path / "LSMDC16_annos_val.csv", lsmdc_line(LSMDC_CLIPS[1], "SOMEONE sleeps.")),
        write(tmp_path / "LSMDC16_challenge_1000_publictect.csv", lsmdc_line(LSMDC_CLIPS[2], "SOMEONE eats.")),
    ]
    assert read_annotations(files) == [
        VideoRecord(LSMDC_CLIPS[0], "train", ['He says "go, now".', "SOMEONE runs."]),
        VideoRecord(LSMDC_CLIPS[1], "validate", ["SOMEONE sleeps."]),
        VideoRecord(LSMDC_CLIPS[2], "test", ["SOMEONE eats."]),
    ]


def test_lsmdc_blind_test_has_no_sentences(tmp_path: Path) -> None:
    file = write(tmp_path / "LSMDC16_annos_blindtest.csv", lsmdc_line(LSMDC_CLIPS[0]) + lsmdc_line(LSMDC_CLIPS[1], ""))
    assert read_annotations([file]) == [VideoRecord(clip, "test", []) for clip in LSMDC_CLIPS[:2]]


# DiDeMo -------------------------------------------------------------------------------------------------------------


def didemo_entry(video: str, description: str, times: list[list[int]]) -> dict[str, object]:
    return {
        "reference_description": "none", "description": description, "context": [], "times": times,
        "dl_link": "https://www.flickr.com/video_download.gne?id=2408598493", "video": video, "num_segments": 6,
        "annotation_id": 7,
    }  # fmt: skip


DIDEMO = [
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "a cat runs.", [[0, 0], [0, 1], [0, 0], [0, 1]]),
    didemo_entry("10015567@N08_3655084291_d8b58466fa.mov", "the camera pans", [[5, 5]] * 4),
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "the cat sits", [[2, 3]] * 4),
    didemo_entry("54322086@N00_2408598493_274c77d26a.avi", "it sits still", [[2, 3]] * 4),
]


def test_didemo_moments_and_paragraphs(tmp_path: Path) -> None:
    file = write(tmp_path / "val_data.json", DIDEMO)
    first, second = "54322086@N00_2408598493_274c77d26a", "10015567@N08_3655084291_d8b58466fa"
    # Chunks of 5 s; the end is the mean of 0, 1, 0 and 1 plus the chunk itself: 7.5 s.
    assert read_annotations([file]) == [
        VideoRecord(f"{first}@0.00-7.50", "validate", ["a cat runs."], first, Span(0, 7.5)),
        VideoRecord(f"{second}@25.00-30.00", "validate", ["the camera pans"], second, Span(25, 30)),
        VideoRecord(f"{first}@10.00-20.00", "validate", ["the cat sits", "it sits still"], first, Span(10, 20)),
    ]
    assert read_annotations([file], paragraphs=True) == [
        VideoRecord(first, "validate", ["a cat runs. the cat sits it sits still"]),
        VideoRecord(second, "validate", ["the camera pans"]),
    ]
    listed = write(tmp_path / "val_list.txt", "10015567@N08_3655084291_d8b58466fa.mov\n")
    assert [record.source for record in read_annotations([file, listed])] == [second]
    assert [record.video_id for record in read_annotations([file, listed], paragraphs=True)] == [second]


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


def activitynet(folder: Path, name: str = "train.json", content: object = ACTIVITYNET) -> Path:
    return write(folder / name, content)


def test_activitynet_one_segment_one_sample(tmp_path: Path) -> None:
    records = read_annotations([activitynet(tmp_path)])
    assert [(record.video_id, record.span) for record in records] == [
        ("v_QOlSCBRmfWY@0.83-19.86", Span(0.83, 19.86)),
        ("v_QOlSCBRmfWY@17.37-60.81", Span(17.37, 60.81)),
        ("v_QOlSCBRmfWY@56.26-79.42", Span(56.26, 79.42)),
        ("v_ehGHCYKzyZ8@10.00-30.50", Span(10, 30.5)),
        ("v_ehGHCYKzyZ8@40.00-61.72", Span(40, 61.72)),
    ]
    assert records[1].captions == ["She dances around."]
    assert {record.split for record in records} == {"train"}


def test_activitynet_paragraphs_of_two_annotators(tmp_path: Path) -> None:
    other = {"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0, 50], [50, 82]], "sentences": ["One.", "Two."]}}
    files = [activitynet(tmp_path, "val_1.json"), activitynet(tmp_path, "val_2.json", other)]
    records = read_annotations(files, paragraphs=True)
    assert [(record.video_id, record.split) for record in records] == [
        ("v_QOlSCBRmfWY", "validate"),
        ("v_ehGHCYKzyZ8", "validate"),
    ]
    assert records[0].captions == [
        "A woman is seen standing in a room. She dances around. She ends by bowing.",
        "One. Two.",
    ]
    assert len(read_annotations(files)) == 7
    listed = write(tmp_path / "val_ids.json", ["v_ehGHCYKzyZ8"])
    assert [record.source for record in read_annotations([*files, listed])] == ["v_ehGHCYKzyZ8"] * 2
    assert len(read_annotations([*files, listed], paragraphs=True)) == 1
    bare = write(tmp_path / "val_list.txt", "ehGHCYKzyZ8\n")
    assert [record.source for record in read_annotations([*files, bare])] == ["v_ehGHCYKzyZ8"] * 2


def test_activitynet_videos_and_features_may_lack_the_first_letters(tmp_path: Path) -> None:
    path = activitynet(tmp_path)
    found = match_videos(read_annotations([path]), {"QOlSCBRmfWY": Path("QOlSCBRmfWY.mp4")})
    assert found.videos == dict.fromkeys(found.spans, Path("QOlSCBRmfWY.mp4"))
    assert list(found.spans) == [
        "v_QOlSCBRmfWY@0.83-19.86",
        "v_QOlSCBRmfWY@17.37-60.81",
        "v_QOlSCBRmfWY@56.26-79.42",
    ]
    assert found.missing == ["v_ehGHCYKzyZ8"]
    matched = match_features(read_annotations([path], paragraphs=True), ["QOlSCBRmfWY"])
    assert [record.video_id for record in matched.records] == ["QOlSCBRmfWY"]
    with pytest.raises(ClipcapError, match=r"annotations are of segments, such as v_QO.*--paragraphs"):
        match_features(read_annotations([path]), ["QOlSCBRmfWY"])
    with pytest.raises(ClipcapError, match="none of the 1 videos is in the annotations"):
        match_videos(read_annotations([path]), {"clip": Path("clip.mp4")})


# Malformed files ----------------------------------------------------------------------------------------------------


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
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ClipcapError, match=message) as caught:
        read_annotations([path])
    assert "\n" not in str(caught.value)
