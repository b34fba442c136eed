"""What every annotation file becomes: videos with a split and captions; and how several files make one set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipcap_video.datasets.source import SPLIT_WORDS
from clipcap_video.errors import ClipcapError
from clipcap_video.video.sampling import Span


class SplitOverlap(ClipcapError):
    """One file puts videos into several splits. videos: id -> the first two of its splits."""

    def __init__(self, message: str, videos: dict[str, tuple[str, str]]) -> None:
        super().__init__(message)
        self.videos = videos


class Texts(Sequence[str]):
    """Captions of one video among those of many, which become text when they are looked at.

    column: a pyarrow array, of which start to end are these captions; none is empty. fix: what is done to each.
    """

    __slots__ = ("column", "end", "fix", "start")

    def __init__(self, column: Any, start: int, end: int, fix: Callable[[str], str] | None = None) -> None:
        self.column, self.start, self.end, self.fix = column, start, end, fix

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[str]:
        folded = (" ".join(text.split()) for text in self.column.slice(self.start, len(self)).to_pylist())
        return folded if self.fix is None else map(self.fix, folded)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        place = range(self.start, self.end)[index]
        return next(iter(Texts(self.column, place, place + 1, self.fix)))

    def __add__(self, other: Iterable[str]) -> list[str]:
        return [*self, *other]


@dataclass(frozen=True)
class VideoRecord:
    """One video of a dataset, or one segment of a video.

    captions: in file order, white space folded, empty ones dropped.
    split: "" while no file says it; `read_annotations` gives such only where splits do not count.
    whole, span: of a segment, the id of the video and the part of it; see `segment`.
    aliases: other ids under which files and features of the video are found.
    origin: the place, among the annotation files that list no splits, of the first that has the video.

    Raises ClipcapError for an id that is no name.
    """

    video_id: str
    split: str
    captions: list[str] = field(default_factory=list)
    whole: str | None = None
    span: Span | None = None
    aliases: tuple[str, ...] = ()
    origin: int = 0

    def __post_init__(self) -> None:
        name = self.video_id if self.whole is None else self.whole
        if not (isinstance(name, str) and name):
            raise ClipcapError(f"the id of a video is {name!r}, not a name; fix it")
        if isinstance(self.captions, Texts):  # which folds them itself
            return
        folded = (" ".join(caption.split()) for caption in self.captions)
        object.__setattr__(self, "captions", [caption for caption in folded if caption])

    @classmethod
    def segment(
        cls, whole: str, split: str, captions: list[str], span: Span, aliases: tuple[str, ...] = ()
    ) -> VideoRecord:
        """The part `span` of the video `whole`; its id, VIDEO@START-END in seconds, also names its features."""
        return cls(f"{whole}@{span.start:.2f}-{span.end:.2f}", split, captions, whole, span, aliases)

    @property
    def source(self) -> str:
        """The id of the video that the frames come from."""
        return self.whole or self.video_id


@dataclass(frozen=True)
class Listing:
    """What a file says that lists the videos of a split. Captions that it has itself replace those of other files."""

    records: list[VideoRecord]


def normal_split(name: str) -> str:
    """The published name of a split: "val", "valid", "dev" and "validation" are MSR-VTT's "validate"."""
    name = name.strip().lower()
    return SPLIT_WORDS.get(name, name)


def splits(records: Iterable[VideoRecord]) -> dict[str, int]:
    """How many videos each split has, in order of first appearance."""
    return dict(Counter(record.split for record in records))


def select(records: Sequence[VideoRecord], split: str) -> list[VideoRecord]:
    """The videos of one split. Raises ClipcapError, listing the splits there are, when it has none."""
    wanted = normal_split(split)
    chosen = [record for record in records if record.split == wanted]
    if not chosen:
        have = ", ".join(f"{name} ({count:,})" for name, count in splits(records).items())
        raise ClipcapError(f"no split {split!r} in the annotations; there is {have or 'none'}")
    return chosen
