"""Every published data set's file, changed in one place after another: it is read, or refused in one sentence."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError
from tests.datasets.published import CHARADES, GIF, KARPATHY, VATEX, WEBVID, YOUCOOK2, didemo_entry, lsmdc_line, msrvtt
from tests.datasets.test_activitynet import ACTIVITYNET
from tests.hostile.test_hostile import Place, place, refuses  # noqa: F401  (a fixture)

COCO = {
    "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}],
    "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet"}],
}
DOCUMENTS: dict[str, Any] = {
    "videodatainfo.json": msrvtt(),
    "train.json": ACTIVITYNET,
    "train_data.json": [didemo_entry("a.mp4", "a dog", [[0, 1], [0, 1]])],
    "dataset_coco.json": KARPATHY,
    "captions_val2014.json": COCO,
    "vatex_validation_v1.0.json": VATEX,
    "youcookii_annotations_trainval.json": YOUCOOK2,
}
TEXTS = {
    "LSMDC16_annos_training.csv": lsmdc_line("0001_American_Beauty_00.00.51.926-00.00.54.129", "A man.") + "\n",
    "Flickr8k.token.txt": "1_a.jpg#0\tA child , in pink .\n1_a.jpg#1\tA girl .\n",
    "tgif-v1.0.tsv": f"{GIF}\ta man is glaring.\n",
    "Charades_v1_train.csv": CHARADES,
    "charades_sta_test.txt": "3MSZA 24.3 30.4##person turn a light on.\n",
    "results_2M_train.csv": WEBVID,
    "captions.csv": "video,caption,split\nvideo0,a man,train\nvideo1,a dog,test\n",
    "captions.jsonl": '{"video": "video0", "caption": "a man"}\n{"video": "video1", "captions": ["a", "b"]}\n',
}
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**400, "x", "", "\ud800", "\0", [], {}, [None], [[]], {"a": 1}, math.nan, math.inf,
]  # fmt: skip
PIECES = [
    "",
    "\0",
    "\ufeff",
    '"',
    ",",
    "\t",
    "#",
    "##",
    "\n\n",
    "\r",
    "9" * 5000,
    "nan",
    "1e999",
    "\x1b[31m",
    "x" * 300_000,
]


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a document stands, that of the whole first."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from _places(value, (*path, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


def _is_read_or_refused(file: Path, content: bytes, paragraphs: bool) -> None:
    file.write_bytes(content)
    said, records = None, []
    try:
        records = read_annotations([file], paragraphs, need_splits=False)
    except ClipcapError as error:
        said = str(error)
    shown = content[:300]
    assert said is None or (str(file) in said and "\n" not in said and len(said) < 1000), shown
    for record in records:
        assert isinstance(record.video_id, str), shown
        assert record.video_id, shown
        assert all(isinstance(text, str) and text.strip() for text in record.captions), shown
        if record.span is not None:
            assert 0 <= record.span.start <= record.span.end < math.inf, shown


@pytest.mark.slow
@pytest.mark.parametrize("paragraphs", [False, True], ids=["", "paragraphs"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(tmp_path: Path, name: str, paragraphs: bool) -> None:
    document = DOCUMENTS[name]
    for path in _places(document):
        for value in VALUES:
            changed = json.dumps(_changed(document, path, value)).encode()
            _is_read_or_refused(tmp_path / name, changed, paragraphs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path: Path, name: str) -> None:
    text = TEXTS[name]
    for at in range(0, len(text) + 1, max(1, len(text) // 40)):
        for piece in PIECES:
            _is_read_or_refused(tmp_path / name, (text[:at] + piece + text[at:]).encode(), False)
        _is_read_or_refused(tmp_path / name, text[:at].encode() + b"\xff\xfe" + text[at:].encode(), False)
        _is_read_or_refused(tmp_path / name, text[:at].encode(), False)


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, 7, [[]], {"a": 1}], ids=str)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_by_command(place: Place, tmp_path: Path, name: str, value: Any) -> None:  # noqa: F811
    document = DOCUMENTS[name]
    deep = max(_places(document), key=len)
    (tmp_path / name).write_text(json.dumps(_changed(document, deep[:-1], value)))
    (tmp_path / "p.json").write_text('{"video30": "a man"}')
    refuses(place, "evaluate", tmp_path / "p.json", "--annotations", tmp_path / name, "--out", tmp_path / "s.json")
