"""predictions.json: the captions of many videos, as inference writes them and evaluation reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap_video.consensus.config import UNSURE_BELOW
from clipcap_video.errors import ClipcapError, parsing
from clipcap_video.files import parse_json, read_json, write_text
from clipcap_video.video.damage import Damage

if TYPE_CHECKING:
    from clipcap_video.decoding.hypotheses import Hypothesis

VERSION = 1


@dataclass(frozen=True)
class Caption:
    """logprob: nats, summed over tokens; mean_logprob: nats a token; cut: it is truncated.

    expected_cider: the CIDEr (0 to 10) that the checkpoint's consensus network expects; None where it has none.
    support: the share (0 to 1) of its words that somebody would say of the video, by that network's estimate;
    probability: that it holds no wrong word, fitted on the validation split where there was one. unsure: whether that
    is below the threshold of the checkpoint. model: the name of another model that wrote it instead.
    """

    text: str
    logprob: float
    mean_logprob: float
    tokens: int
    cut: bool = False
    expected_cider: float | None = None
    support: float | None = None
    probability: float | None = None
    unsure: bool | None = None
    model: str | None = None

    @classmethod
    def of(cls, hypothesis: Hypothesis, text: str) -> Caption:
        """A hypothesis in words."""
        names = ("logprob", "mean_logprob", "cut", "expected_cider", "support", "probability", "unsure")
        return cls(text, tokens=len(hypothesis.tokens), **{name: getattr(hypothesis, name) for name in names})

    def __str__(self) -> str:
        """The text as a person is to read it: with its support, and whether that is too little to be believed."""
        said = [] if self.model is None else [self.model]
        said += [] if self.support is None else [f"support {self.support:.2f}"]
        said += [] if self.probability is None else [f"probability {self.probability:.2f}"]
        said += ["unsure"] if self.unsure else []
        return f"{self.text} ({', '.join(said)})" if said else self.text


@dataclass(frozen=True)
class FrameEvidence:
    """What the best caption owes to some frames that follow one another.

    first, last: their positions among the frames that were seen, both included. drop: nats by which the caption's
    log-probability falls when they are left out; below zero, it is likelier without them.
    """

    first: int
    last: int
    drop: float


@dataclass(frozen=True)
class Prediction:
    """The captions of one video, best first.

    timestamps: times of the frames that were seen, in seconds. path: the video file.
    evidence: how much the frames mattered for the best caption; empty where that was not looked into.
    start and end: the part of it that the captions describe, in seconds; None for all of it.
    damage: how much of the video is damaged; None where nothing was found, or nobody looked.
    """

    video: str
    captions: list[Caption]
    timestamps: list[float] = field(default_factory=list)
    path: str | None = None
    start: float | None = None
    end: float | None = None
    evidence: list[FrameEvidence] = field(default_factory=list)
    damage: Damage | None = None

    @property
    def text(self) -> str:
        """The best caption; "" where there is none."""
        return self.captions[0].text if self.captions else ""


@dataclass(frozen=True)
class PredictionFile:
    """A whole predictions.json. decoding: the settings by name; split: None for videos of no dataset."""

    model: str
    split: str | None
    decoding: dict[str, Any]
    predictions: list[Prediction]

    def save(self, path: Path | str) -> None:
        """Writes the file, whole or not at all. Raises ClipcapError when it cannot be written."""
        content = {"version": VERSION, **asdict(self)}
        write_text(Path(path), _json(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> PredictionFile:
        """Reads what `save` wrote. Raises ClipcapError when the file is missing or is something else."""
        path = Path(path)
        content = _read(path)
        if isinstance(content, list) or not _is_ours(content):
            raise ClipcapError(f"{path} lacks the fields version and predictions; give a predictions.json of inference")
        return cls._from_json(content, path)

    @classmethod
    def _from_json(cls, content: dict[str, Any], path: Path) -> PredictionFile:
        if content["version"] != VERSION:
            raise ClipcapError(
                f"{path} has version {content['version']!r} and this program reads version {VERSION}; "
                "write it anew, or update the program"
            )
        entries = content["predictions"]
        if not isinstance(entries, list):
            raise ClipcapError(f"{path}: the field predictions is not a list; write the file anew with inference")
        predictions = [_prediction(entry, f"{path}: predictions[{index}]") for index, entry in enumerate(entries)]
        return cls(
            model=str(content.get("model", "")),
            split=content.get("split"),
            decoding=content.get("decoding") or {},
            predictions=predictions,
        )

    def captions(self) -> dict[str, str]:
        """The best caption of each video; "" for a video without one."""
        return {prediction.video: prediction.text for prediction in self.predictions}

    def probabilities(self) -> dict[str, float]:
        """The probability that each video's best caption holds no wrong word, where it is known."""
        best = {prediction.video: prediction.captions[0] for prediction in self.predictions if prediction.captions}
        return {video: one.probability for video, one in best.items() if one.probability is not None}

    def confidence(self) -> dict[str, float]:
        """Mean log-probability a token (nats) of each video's best caption; NaN where it is not known.

        Where a consensus network chose, the CIDEr that it expects instead: it says more.
        """
        best = {prediction.video: prediction.captions[0] for prediction in self.predictions if prediction.captions}
        expected = {video: caption.expected_cider for video, caption in best.items()}
        known = {video: cider for video, cider in expected.items() if cider is not None}
        return known if len(known) == len(best) else {video: caption.mean_logprob for video, caption in best.items()}


def to_line(prediction: Prediction) -> str:
    """A prediction as one line of JSON, with the fields that predictions.json has.

    Numbers have four decimals: further ones depend on which videos were captioned at once, which differs from run to
    run where one is stopped.
    """
    return _json(_rounded(asdict(prediction)))


def from_line(line: str, where: str) -> Prediction:
    """Reads what `to_line` wrote. Raises ClipcapError, naming `where` it stands, for anything else."""
    with parsing(where, "write the file anew"):
        return _prediction(parse_json(line), where)


def load_captions(path: Path | str) -> tuple[dict[str, str], str | None]:
    """The best caption of each video in a predictions.json, and the split that it says it covers.

    A plain {"id": "caption"} or {"id": ["caption"]} will do, and so will results of the COCO caption evaluation,
    [{"image_id": 7, "caption": "a dog"}]; they say no split.
    Raises ClipcapError when the file is missing or malformed, or names a video twice.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, list):
        return _coco_captions(content, path), None
    if not _is_ours(content):
        return _plain_captions(content, path), None
    file = PredictionFile._from_json(content, path)
    captions = file.captions()
    if len(captions) != len(file.predictions):
        names = [prediction.video for prediction in file.predictions]
        twice = next(name for name in names if names.count(name) > 1)
        raise ClipcapError(f"{path} has several predictions for video {twice!r}; keep one a video")
    return captions, file.split


def _is_ours(content: Mapping[str, Any]) -> bool:
    return "version" in content and "predictions" in content


def _read(path: Path) -> dict[str, Any] | list[Any]:
    if not path.exists():
        raise ClipcapError(f"no predictions at {path}; write them with inference_vtt.py")
    content = read_json(path, "the predictions", "give a predictions.json")
    if not isinstance(content, dict | list):
        raise ClipcapError(f"{path} holds no JSON object; give a predictions.json, or an object of id and caption")
    return content


def _coco_captions(content: list[Any], path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for index, entry in enumerate(content):
        image_id, caption = (entry.get("image_id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        if type(image_id) not in (int, str) or not isinstance(caption, str):
            raise ClipcapError(
                f"{path}: entry {index} lacks an image_id or a caption; results of the COCO evaluation are a list of "
                '{"image_id": 7, "caption": "a dog runs"}'
            )
        if str(image_id) in captions:
            raise ClipcapError(f"{path} has several captions of image {image_id}; keep one an image")
        captions[str(image_id)] = caption
    if not captions:
        raise ClipcapError(f"{path} holds no captions; give a predictions.json")
    return captions


def _plain_captions(content: dict[str, Any], path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for video, value in content.items():
        first = value[0] if isinstance(value, list) and value else value
        if not isinstance(first, str):
            raise ClipcapError(
                f"{path}: the entry {video!r} is neither a caption nor a list of captions; "
                'give a predictions.json, or an object such as {"video1": "a dog runs"}'
            )
        captions[video] = first
    if not captions:
        raise ClipcapError(f"{path} holds no captions; give a predictions.json")
    return captions


def _prediction(entry: Any, where: str) -> Prediction:
    with parsing(where, "write the file anew with inference"):
        captions = [
            Caption(
                text=_of_type(str, caption["text"], "text"),
                logprob=_number(caption.get("logprob")),
                mean_logprob=_number(caption.get("mean_logprob")),
                tokens=int(caption.get("tokens", 0)),
                cut=bool(caption.get("cut", False)),
                expected_cider=_within(caption, "expected_cider", 10 + 1e-3),
                support=_within(caption, "support", 1),
                probability=_within(caption, "probability", 1),
                unsure=_unsure(caption),
                model=_text(caption, "model"),
            )
            for caption in _of_type(list, entry["captions"], "captions")
        ]
        times = [float(time) for time in entry.get("timestamps") or []]
        start, end = (_within(entry, name, math.inf) for name in ("start", "end"))
        if (
            times != sorted(times)
            or not all(map(math.isfinite, times))
            or (start or 0) > (math.inf if end is None else end)
        ):
            raise ValueError("its times make no sense")
        return Prediction(
            video=_of_type(str, entry["video"], "video"),
            captions=captions,
            timestamps=times,
            evidence=[
                FrameEvidence(int(part["first"]), int(part["last"]), _number(part["drop"]))
                for part in entry.get("evidence") or []
            ],
            damage=Damage.from_json(entry.get("damage")),
            path=_text(entry, "path"),
            start=start,
            end=end,
        )


def _within(entry: Mapping[str, Any], name: str, most: float) -> float | None:
    """A number from 0 to `most`, or None."""
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r}")
    return value


def _text(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return None if value is None else str(_of_type(str, value, name))


def _unsure(caption: Mapping[str, Any]) -> bool | None:
    # Files of before do not say; the threshold was the same for all captioners then.
    support = caption.get("support")
    return caption.get("unsure", None if support is None else support < UNSURE_BELOW)


def _of_type(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}")
    return value


def _number(value: float | None) -> float:
    # JSON has no infinities: a score that is none was written as null.
    return math.nan if value is None else float(value)


def _json(content: Any, indent: int | None = None) -> str:
    text = json.dumps(plain_json(content), indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a path whose bytes are not UTF-8: its escapes are read back as they were
        return json.dumps(plain_json(content), indent=indent, allow_nan=False)
    return text


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def plain_json(value: Any) -> Any:
    """The value in JSON's types: paths as text, infinities and NaN as null, array scalars as numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
