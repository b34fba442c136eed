"""The forms in which captions leave a run. A new one is a function here, and a line in FORMATS.

A *sidecar* is one file a video, beside it or in a folder; a *table* is one file for the whole run, failures included.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap_video.captioning.subtitles import cues, description_file, subtitle_file
from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file, write_text

if TYPE_CHECKING:
    from clipcap_video.captioning.predictions import Prediction

UNSURE = "(unsure) "
# What is written of long videos unless something else is asked for.
SUBTITLES = ("srt", "vtt")


@dataclass(frozen=True)
class Wording:
    """How captions are worded where they stand alone, in texts and subtitles.

    prefix, suffix: put around each caption of a text. min_support: captions with less are left out. marked: unsure
    ones begin with UNSURE.
    """

    prefix: str = ""
    suffix: str = ""
    min_support: float = 0.0
    marked: bool = True

    def shown(self, predictions: Sequence[Prediction]) -> Iterator[tuple[Prediction, str]]:
        """Predictions that are to be shown, each with its text."""
        for prediction in predictions:
            best = prediction.captions[0] if prediction.captions else None
            if best is None or (best.support is not None and best.support < self.min_support):
                continue
            yield prediction, f"{UNSURE}{best.text}" if self.marked and best.unsure else best.text


@dataclass(frozen=True)
class Results:
    """What there is to write: all predictions of a run, or of one video for a sidecar.

    failures: id and path of each video that could not be read, and why. model, split, decoding: as predictions.json
    has them.
    """

    predictions: Sequence[Prediction]
    failures: Sequence[tuple[str, str, str]] = ()
    model: str = ""
    split: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)


@dataclass(frozen=True)
class Row:
    """A line of a table. start, end: seconds, None for a whole video. logprob: nats, summed over tokens.

    model: what wrote the caption; own_caption: ours, where another model's took its place. error: why there is none.
    """

    video: str
    path: str | None
    start: float | None = None
    end: float | None = None
    caption: str | None = None
    support: float | None = None
    probability: float | None = None
    unsure: bool | None = None
    expected_cider: float | None = None
    logprob: float | None = None
    model: str | None = None
    own_caption: str | None = None
    error: str | None = None


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """The lines of a table: captions in the order of the videos, then what failed."""
    from clipcap_video.captioning.predictions import plain_json

    for one in results.predictions:
        best = one.captions[0] if one.captions else None
        if best is None:
            found = Row(one.video, one.path, one.start, one.end)
        else:
            own = next((other.text for other in one.captions if other.model is None), None)
            found = Row(
                one.video, one.path, one.start, one.end, best.text, best.support, best.probability, best.unsure,
                best.expected_cider, best.logprob, best.model or results.model or None, own if best.model else None,
            )  # fmt: skip
        yield plain_json(vars(found))
    for video, path, reason in results.failures:
        yield plain_json(vars(Row(video, path, error=reason)))


def write_json(file: Path, results: Results) -> None:
    from clipcap_video.captioning.predictions import PredictionFile

    PredictionFile(results.model, results.split, dict(results.decoding), list(results.predictions)).save(file)


def write_jsonl(file: Path, results: Results) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows(results))
    write_text(file, "".join(f"{line}\n" for line in lines))


def write_csv(file: Path, results: Results) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [item.name for item in fields(Row)])
    table.writeheader()
    table.writerows(rows(results))
    write_text(file, text.getvalue())


def write_parquet(file: Path, results: Results) -> None:
    pyarrow, parquet = require_pyarrow()
    kinds = {
        "start": "float64",
        "end": "float64",
        "support": "float32",
        "probability": "float32",
        "expected_cider": "float32",
    }
    kinds |= {"logprob": "float64", "unsure": "bool_"}
    schema = pyarrow.schema([(item.name, getattr(pyarrow, kinds.get(item.name, "string"))()) for item in fields(Row)])
    with whole_file(file) as partial_file:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows(results)), schema), partial_file)


def require_pyarrow() -> tuple[Any, Any]:
    """The modules that write Parquet. Raises ClipcapError where they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ClipcapError("Parquet needs pyarrow; install it with pip install 'clipcap-video[parquet]'") from None
    return pyarrow, pyarrow.parquet


def write_coco(file: Path, results: Results) -> None:
    """As the COCO caption evaluation reads results: ids of digits are numbers there. Of parts, the id has the times."""
    entries = []
    for row in rows(results):
        if row["caption"] is None:
            continue
        name = row["video"] if row["start"] is None else f"{row['video']}@{row['start']:.2f}-{row['end']:.2f}"
        image_id = int(name) if name.isascii() and name.isdigit() else name
        entries.append(
            {"image_id": image_id, **{key: row[key] for key in ("caption", "support", "probability", "unsure")}}
        )
    write_text(file, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def write_txt(file: Path, results: Results) -> None:
    """The caption alone, as those expect it who train generators; of a video in segments, a line for each."""
    wording = results.wording
    lines = [f"{wording.prefix}{text}{wording.suffix}\n" for _, text in wording.shown(results.predictions)]
    if lines:
        write_text(file, "".join(lines))


def subtitles(kind: str, results: Results) -> str:
    """The text of a subtitle file, `srt`, `vtt` or `ass`."""
    return subtitle_file(cues(_timed(results)), kind)


def write_subtitles(kind: str, file: Path, results: Results) -> None:
    write_text(file, subtitles(kind, results))


def write_descriptions(file: Path, results: Results) -> None:
    write_text(file, description_file(_timed(results)))


def _timed(results: Results) -> Iterator[tuple[float, float, str]]:
    for one, text in results.wording.shown(results.predictions):
        last = one.timestamps[-1] if one.timestamps else 0.0
        yield one.start or 0.0, last if one.end is None else one.end, text


@dataclass(frozen=True)
class Format:
    """ending: put behind a video's stem, or behind that of the run's --out. is_sidecar: one file a video.

    require: raises ClipcapError where a library is missing.
    """

    ending: str
    is_sidecar: bool
    write: Callable[[Path, Results], None]
    require: Callable[[], object] = tuple


FORMATS: dict[str, Format] = {
    "json": Format(".json", False, write_json),
    "jsonl": Format(".jsonl", False, write_jsonl),
    "csv": Format(".csv", False, write_csv),
    "parquet": Format(".parquet", False, write_parquet, require_pyarrow),
    "coco": Format(".coco.json", False, write_coco),
    "txt": Format(".txt", True, write_txt),
    "srt": Format(".srt", True, partial(write_subtitles, "srt")),
    "vtt": Format(".vtt", True, partial(write_subtitles, "vtt")),
    "ass": Format(".ass", True, partial(write_subtitles, "ass")),
    "vtt-descriptions": Format(".descriptions.vtt", True, write_descriptions),
}

SIDECAR_ENDINGS = tuple(kind.ending for kind in FORMATS.values() if kind.is_sidecar)


def require_formats(names: Sequence[str]) -> None:
    """Raises ClipcapError where a library is missing that a format needs."""
    for name in names:
        FORMATS[name].require()


def write_tables(tables: Mapping[str, Path], results: Results) -> None:
    """tables: format -> file, whose folder is made."""
    for name, file in tables.items():
        FORMATS[name].write(file, results)


def table_file(out: Path, name: str) -> Path:
    """Where the table of a format goes: `out` itself where its name ends so, else beside it, under the same stem."""
    named = name_of_table(out)
    if named == name or (named is None and name == "json"):
        return out
    stem = out.name.removesuffix(FORMATS[named].ending) if named else out.stem
    return out.with_name(f"{stem}{FORMATS[name].ending}")


def name_of_table(out: Path) -> str | None:
    """The format of a table that the name of a file tells."""
    fitting = [name for name, kind in FORMATS.items() if not kind.is_sidecar and out.name.endswith(kind.ending)]
    return max(fitting, key=lambda name: len(FORMATS[name].ending), default=None)
