"""COCO, Flickr, VATEX, TGIF, Charades, YouCook2, WebVid and Multi30k, each on a small file in the true format."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span
from tests.datasets.test_annotations import msrvtt, write
from tests.datasets.test_published import assert_refused


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


def test_karpathys_splits_of_coco(tmp_path: Path) -> None:
    assert read_annotations([write(tmp_path / "dataset_coco.json", KARPATHY)]) == [
        VideoRecord("391895", "test", ["A man on a bike."], aliases=("COCO_val2014_000000391895",)),
        VideoRecord("60623", "train", ["A girl", "Two girls"], aliases=("COCO_val2014_000000060623",)),
    ]


def test_karpathys_flickr_goes_by_file_names(tmp_path: Path) -> None:
    content = {"images": [karpathy_image("1000092795.jpg", "val", "Two men.")], "dataset": "flickr30k"}
    path = write(tmp_path / "dataset_flickr30k.json", content)
    assert read_annotations([path]) == [VideoRecord("1000092795", "validate", ["Two men."])]


def test_coco_captions_go_by_the_number_too(tmp_path: Path) -> None:
    content = {
        "info": {}, "licenses": [], "type": "captions",
        "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "width": 640, "height": 360}],
        "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet"}],
    }  # fmt: skip
    path = write(tmp_path / "captions_val2014.json", content)
    assert read_annotations([path]) == [
        VideoRecord("391895", "validate", ["A man with a red helmet"], aliases=("COCO_val2014_000000391895",))
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Flickr8k.token.txt", "1_a.jpg#0\tA child , in pink .\n1_a.jpg#1\tA girl .\n2_b.jpg.1#0\tA dog .\n"),
        ("captions.txt", 'image,caption\n1_a.jpg,"A child , in pink ."\n1_a.jpg,A girl .\n2_b.jpg.1,A dog .\n'),
    ],
)
def test_flickr8k_with_its_lists(tmp_path: Path, name: str, content: str) -> None:
    lists = [
        write(tmp_path / "Flickr_8k.trainImages.txt", "1_a.jpg\n"),
        write(tmp_path / "Flickr_8k.devImages.txt", "2_b.jpg.1\n"),
    ]
    assert read_annotations([write(tmp_path / name, content), *lists]) == [
        VideoRecord("1_a", "train", ["A child , in pink .", "A girl ."]),
        VideoRecord("2_b.jpg.1", "validate", ["A dog ."]),
    ]


def test_vatex_in_english_else_in_chinese(tmp_path: Path) -> None:
    records = read_annotations([write(tmp_path / "vatex_validation_v1.0.json", VATEX)])
    assert records[0] == VideoRecord("Ptf_2VRj-V0_000122_000132", "validate", ["A man lifts weights."])
    chinese = [{"videoID": entry["videoID"], "chCap": entry["chCap"]} for entry in VATEX]
    records = read_annotations([write(tmp_path / "vatex_public_test_chinese.json", chinese)])
    assert (records[1].split, records[1].captions) == ("test", ["一只狗。"])
    blind = [{"videoID": entry["videoID"]} for entry in VATEX]
    path = write(tmp_path / "vatex_private_test_without_annotations.json", blind)
    assert [record.captions for record in read_annotations([path])] == [[], []]


def test_tgif(tmp_path: Path) -> None:
    captions = write(tmp_path / "tgif-v1.0.tsv", f"{GIF}\ta man is glaring, and someone appears.\n{GIF}\ta cat\n")
    listed = write(tmp_path / "test.txt", f"{GIF}\n")
    assert read_annotations([captions, listed]) == [
        VideoRecord("tumblr_mevmyaKtDf1rgvhr8o1_500", "test", ["a man is glaring, and someone appears.", "a cat"])
    ]


def test_charades(tmp_path: Path) -> None:
    assert read_annotations([write(tmp_path / "Charades_v1_train.csv", CHARADES)]) == [
        VideoRecord("YSKX3", "train", ["A person puts a picture on the wall, then leaves.", "They look at it."]),
        VideoRecord("00607", "train", []),
    ]
    timed = write(tmp_path / "charades_sta_test.txt", "3MSZA 24.3 30.4##person turn a light on.\n")
    assert read_annotations([timed]) == [
        VideoRecord.segment("3MSZA", "test", ["person turn a light on."], Span(24.3, 30.4))
    ]


def test_youcook2(tmp_path: Path) -> None:
    path = write(tmp_path / "youcookii_annotations_trainval.json", YOUCOOK2)
    records = read_annotations([path])
    assert [(record.video_id, record.split, record.captions) for record in records] == [
        ("GLd3aX16zBg@90.00-102.00", "train", ["spread margarine on two slices of white bread"]),
        ("GLd3aX16zBg@114.00-241.62", "train", ["place cheese on top"]),
        ("xHr8X2Wpmno@1.00-4.00", "test", []),
    ]
    assert read_annotations([path], paragraphs=True)[0].captions == [
        "spread margarine on two slices of white bread place cheese on top"
    ]


def test_webvid(tmp_path: Path) -> None:
    path = write(tmp_path / "results_2M_train.csv", WEBVID)
    assert read_annotations([path]) == [VideoRecord("21179416", "train", ["Aerial shot winter forest, day"])]


def test_multi30k_beside_its_list_of_pictures(tmp_path: Path) -> None:
    for folder in ("raw", "image_splits"):
        (tmp_path / folder).mkdir()
    german = write(tmp_path / "raw" / "train.de", "Zwei junge weiße Männer sind im Freien.\nEin Mann\u2028schläft.\n")
    with pytest.raises(ClipcapError, match=r"put Multi30k's list of them, image_splits/train\.txt, beside it"):
        read_annotations([german])
    pictures = write(tmp_path / "image_splits" / "train.txt", "1000092795.jpg\n10002456.jpg\n")
    expected = [
        VideoRecord("1000092795", "train", ["Zwei junge weiße Männer sind im Freien."]),
        VideoRecord("10002456", "train", ["Ein Mann schläft."]),
    ]
    assert read_annotations([german]) == expected
    assert read_annotations([german.rename(tmp_path / "raw" / "train.1.de")]) == expected
    write(pictures, "1000092795.jpg\n")
    with pytest.raises(ClipcapError, match=r"has 2 lines and .*train\.txt has 1"):
        read_annotations([tmp_path / "raw" / "train.1.de"])


def test_msrvtt_in_chinese_reads_as_in_english(tmp_path: Path) -> None:
    sentences = [{"sen_id": 0, "video_id": "video2", "caption": "一个男人在开车"}]
    records = read_annotations([write(tmp_path / "msrvtt_zh.json", msrvtt(sentences=sentences))])
    assert records[0] == VideoRecord("video2", "train", ["一个男人在开车"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_coco.json", {"images": [{"sentences": []}]}, r"images\[0\] lacks the field 'filename'; expected"),
        ("dataset_coco.json", {"images": [{**KARPATHY["images"][0], "sentences": 3}]}, r"images\[0\] is malformed"),
        ("Flickr8k.token.txt", "a.jpg#0\tA dog\nb.jpg A cat\n", "'b.jpg A cat' is not PICTURE.jpg#NUMBER"),
        ("vatex_training_v1.0.json", [*VATEX, {"enCap": []}], "entry 2 lacks the field 'videoID'"),
        ("vatex_training_v1.0.json", [{"videoID": "x", "enCap": 3}], "entry 0 is malformed"),
        ("tgif-v1.0.tsv", f"{GIF}\ta cat\na dog\n", "the line 'a dog' is not the URL of a GIF"),
        ("tgif-v1.0.tsv", f"{GIF}\ta cat\n", "does not say which split video"),
        ("charades_sta_train.txt", "A 1 2##x\nB 1##y\n", "'B 1##y' is not VIDEO START END##SENTENCE"),
        ("charades_sta_train.txt", "A 1.2.3 2##x\n", "'A 1.2.3 2##x' is malformed"),
        ("Charades_v1_train.csv", CHARADES.replace("00607", ""), "line 3 lacks the field id"),
        ("youcook.json", {"database": {"x": {"duration": 3, "subset": "training"}}}, "'x' lacks the field 'annotat"),
        ("results_2M_val.csv", WEBVID.replace("21179416,", ",", 1), "line 2 lacks the field videoid"),
        ("results.csv", WEBVID, "does not tell its split"),
    ],
)  # fmt: skip
def test_malformed_files_are_one_sentence(tmp_path: Path, name: str, content: object, message: str) -> None:
    assert_refused(tmp_path / name, content, message)
