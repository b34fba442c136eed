"""Multi30k: train.de, val.1.en, test_2016_flickr.fr and their like, a sentence a line, beside a list of the pictures.

Elliott et al., "Multi30K: Multilingual English-German Image Descriptions", 2016. Line N is of the Nth picture of the
list of the same name (image_splits/train.txt, train_images.txt), which is looked for beside the file or its folder.
"""

from __future__ import annotations

from pathlib import Path

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.datasets.tabular import video_id_of
from clipcap_video.errors import ClipcapError
from clipcap_video.files import decode_text

LANGUAGES = (".en", ".de", ".fr", ".cs", ".ar", ".tr")
FOLDERS = (".", "image_splits", "../image_splits")


def matches(source: Source) -> bool:
    return source.content is None and source.path.suffix.lower() in LANGUAGES


def read(source: Source) -> list[VideoRecord]:
    """Pictures in the order of the list."""
    split, path = source.require_split(), source.path
    name = path.name.split(".")[0]
    places = [path.parent / folder / f"{name}{end}" for folder in FOLDERS for end in (".txt", "_images.txt")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ClipcapError(
            f"{path} has sentences and not which pictures they are of; put Multi30k's list of them, "
            f"image_splits/{name}.txt, beside it"
        )
    pictures, sentences = _lines(found), source.text.rstrip("\n").split("\n")
    if len(pictures) != len(sentences):
        raise ClipcapError(
            f"{path} has {len(sentences):,} lines and {found} has {len(pictures):,}; they go together line by line"
        )
    captions: dict[str, list[str]] = {}
    for picture, sentence in zip(pictures, sentences, strict=True):
        captions.setdefault(video_id_of(picture.split("#")[0]), []).append(sentence)
    return [VideoRecord(picture, split, texts) for picture, texts in captions.items()]


def _lines(path: Path) -> list[str]:
    return decode_text(path.read_bytes()).split()
