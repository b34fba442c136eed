"""What a run over many videos leaves: sidecars as captions come, tables at its end, and in between what resumes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.formats import FORMATS, Results, Wording, require_formats, write_tables
from clipcap_video.captioning.log import CaptionLog
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.captioning.shares import Outcome, join_shares, keep_share, share_log
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.files import fits_a_name, spelled, url_of
from clipcap_video.models.language_model import digest_language_model
from clipcap_video.models.prompt import MEMORY, WORDS
from clipcap_video.runs.engine import Shard
from clipcap_video.runs.record import file_digest


def decided_by(captioner: Captioner, settings: DecodingSettings) -> dict[str, str]:
    """What decides the captions of a video, as far as a log must know to be continued."""
    ranker, side = captioner.ranker if captioner.ranks(settings) else None, captioner.text_side(settings)
    return {
        "model": f"{captioner.describe()['model']} ({digest_language_model(captioner.model)})",
        "decoding": ", ".join(f"{name} {value}" for name, value in asdict(settings).items()),
        **({} if ranker is None else {"consensus": digest_language_model(ranker)}),
        **({} if side is None else {"rerank": side.key}),
        **prompt_digests(captioner),
    }


def prompt_digests(captioner: Captioner) -> dict[str, str]:
    """Of the files of a checkpoint that a prompt of words and captions is made of; none without a prompt."""
    files = (captioner.source / name for name in (WORDS, MEMORY))
    return {file.stem: file_digest(file) for file in files if file.is_file()}


def require_support(least: float, captioner: Captioner, settings: DecodingSettings) -> None:
    """Raises ClipcapError where captions are to be chosen by their support and have none."""
    if least and not captioner.ranks(settings):
        raise ClipcapError(
            f"--min_support {least} needs captions with support, and {captioner.describe()['model']} uses "
            "no consensus network; make one with clipcap-video train-consensus, or leave --min_support out"
        )


class ResultFiles:
    """Where the captions of a run go.

    tables: format -> file, written by `finish`. sidecars: formats with a file for each video, written as captions come;
    those that are there stay, unless `overwrite`. folder: for the sidecars; beside the videos if None.
    record: writes what tells of the run, before the tables, which a run that is killed in between would not know again.
    shard: which share of the videos the run does, where others do the rest for the same tables.
    partial: the log beside `place`, by which a run resumes after an interruption, and which `finish` removes.
    """

    def __init__(
        self,
        place: Path,
        tables: Mapping[str, Path],
        sidecars: Sequence[str] = (),
        *,
        folder: Path | None = None,
        wording: Wording | None = None,
        overwrite: bool = False,
        record: Callable[[], None] | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.record, self.shard = record, shard
        self.tables, self.sidecars, self.folder = tables, sidecars, folder
        self.wording, self.overwrite = wording or Wording(), overwrite
        self.place = place
        self._here = Path(place.name) if url_of(place) else place
        name = f"{place.stem}.partial.jsonl"
        self.partial = self._here.with_name(shard.part_of(name) if shard else name)
        if shard is not None and tables:
            self.partial = share_log(self._here, shard)
        require_formats([*tables, *sidecars])

    def log(self, decided: Mapping[str, str]) -> CaptionLog:
        """The captions of an interrupted run with these decisions. Raises ClipcapError for a run with others."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        return CaptionLog(self.partial, dict(decided), overwrite=self.overwrite)

    def missing(self, videos: Mapping[str, Path], done: Mapping[str, Prediction]) -> dict[str, Path]:
        """The videos that are still to be captioned. done: those in the log."""
        kept = self._complete(videos)
        return {name: path for name, path in videos.items() if name not in done and name not in kept}

    def _complete(self, videos: Mapping[str, Path]) -> set[str]:
        """Videos with all that is asked for, which is known of sidecars alone."""
        if self.tables or not self.sidecars or self.overwrite:
            return set()
        return {name for name, path in videos.items() if all(one.exists() for one in self.beside(path).values())}

    def beside(self, video: Path) -> dict[str, Path]:
        """Format -> sidecar of a video. Raises ClipcapError where its name is too long for them."""
        folder = video.parent if self.folder is None else self.folder
        if url_of(folder):
            raise ClipcapError(f"nothing can be written beside {video}; give a folder here with --sidecar_dir")
        files = {name: folder / f"{video.stem}{FORMATS[name].ending}" for name in self.sidecars}
        long = next((file.name for file in files.values() if not fits_a_name(file.name)), None)
        if long is not None:
            raise ClipcapError(f"the name {long[:40]}... is too long for a file; rename the video")
        return files

    def add(self, prediction: Prediction) -> None:
        """Writes the sidecars of a video."""
        if not self.sidecars:
            return
        for name, file in self.beside(Path(prediction.path or prediction.video)).items():
            if self.overwrite or not file.exists():
                FORMATS[name].write(file, Results([prediction], wording=self.wording))

    def join(
        self, made: Outcome, todo: Mapping[str, Path], videos: Mapping[str, Path], decided: Mapping[str, str]
    ) -> Outcome | None:
        """What became of all `videos`, once the other shares are done too; None, which is said, while some are not.

        made: of the share that is this run's, or of all videos; todo: those that were not done before.
        """
        if self.shard is None or not self.tables:
            return made
        keep_share(self.partial, made, todo)
        whole = join_shares(self._here, self.shard.count, decided, videos)
        if isinstance(whole, Outcome):
            return whole
        count, others = self.shard.count, "another is" if len(whole) == 1 else f"{len(whole)} others are"
        print(
            f"share {self.shard.number} of {count} is in {self.partial.parent}; {spelled(self.place)} is written when "
            f"all are, and {others} to be done, e.g. --shard {whole[0]}/{count}"
        )
        return None

    def finish(self, results: Results) -> Mapping[str, Path]:
        """Writes the tables, and returns them."""
        if self.record is not None and self.tables and results.predictions:
            self.record()
        write_tables(self.tables, results)
        if self.shard is None or not self.tables:
            self.partial.unlink(missing_ok=True)
        return self.tables
