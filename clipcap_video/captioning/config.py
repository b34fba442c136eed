"""The options of `inference_vtt.py`, and those that all commands that caption have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipcap_video.captioning.formats import FORMATS, SIDECAR_ENDINGS, Wording, name_of_table, table_file
from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.network import require_web_address
from clipcap_video.runs.engine import EngineOptions
from clipcap_video.runs.options import ANY, BESIDE, FILE, LARGEST_SEED, SHARED, Options, Part, absolute, option
from clipcap_video.video.damage import MAX_DAMAGE

if TYPE_CHECKING:
    from clipcap_video.decoding import DecodingSettings


# What the MSR-VTT ClipCap program calls its captions, of greedy and of beam search.
PROGRAM_FILES = ("pred.json", "pred_beam.json")
# What captions leave beside videos is no part of a folder of them.
BESIDE_VIDEOS = (*SIDECAR_ENDINGS, ".captions.jsonl", ".failures.jsonl", ".warnings.jsonl")
ARCHITECTURE = "These are read from the checkpoint; one that contradicts it is an error"


_input, _decoding, _output, _second, _run = (
    partial(option, panel=name) for name in ("Input", "Decoding", "Output", "Second opinion", "Run")
)
_architecture = partial(option, panel=ARCHITECTURE)


@dataclass
class CaptionerOptions(Part):
    """Which captioner, with which encoder, where."""

    model_dir: Path | None = _input(
        None,
        "A checkpoint, the folder of a run, or a folder of the ClipCap programs' PREFIX-EPOCH.pt; without it, the "
        "starter captioner.",
    )
    memory: Path | None = _input(
        None,
        "A text file, one caption a line, by which a captioner of --text_only tells videos, in place of those that it "
        "kept.",
        unless={"engine": "ray"},
    )
    lm: str | None = _run(
        None, "Where the frozen language model is, if not where the checkpoint says; gpt2 where it says nothing."
    )
    encoder: str | None = _run(None, "Where the encoder is, if not where the checkpoint says.", needs={"videos": ANY})
    encoder_weights: Path | None = _run(
        None, "A file of weights for the encoder, where its own cannot be had.", needs={"videos": ANY}
    )
    precision: Literal["auto", "fp32", "bf16"] = _run(
        "auto",
        "auto: bf16 where the device is fast at it, for the encoder and, on a CPU, for captions that a consensus "
        "network chooses; else fp32.",
    )
    device: str = _run("auto", "auto takes CUDA, then MPS, then the CPU.")


@dataclass
class DamageOptions(Part):
    """Which videos are sound enough."""

    max_damage: float = _input(
        MAX_DAMAGE,
        "Caption a video of which at most this share of the frames is damaged; 1 takes all that can be read.",
        least=0,
        most=1,
        needs={"videos": ANY},
    )


@dataclass
class BeamOptions(Part):
    """How captions are decoded, sampling left out. The checkpoint says what is unset; see `run.with_defaults_of`."""

    entry_length: int | None = _decoding(
        None, "Most tokens of a caption: 40, or 10 with a checkpoint of the ClipCap programs.", most=10_000
    )
    use_beam_search: bool = _decoding(
        False, "Beam search; otherwise greedy, or sampling if one of its options is given."
    )
    beam_size: int | None = _decoding(
        None, "Hypotheses kept by beam search: 5, or 40 where a consensus network chooses among them.", most=1000
    )
    rerank: Literal["consensus", "clip", "both", "none"] | None = _decoding(
        None,
        "What orders the beams, which are then the default. consensus: the checkpoint's consensus network "
        "(train-consensus), where it has one. clip: the language model, and how well a caption fits the video by a "
        "model that reads both. both: that model and the network. none: the language model alone. Unless given, what "
        "the network was made for.",
    )
    rerank_model: str | None = _decoding(
        None,
        "The model for clip and both, of train-retrieval on the same features. Unless given, the one in the box on "
        "features as the starter captioner's, else the encoder's text side (CLIP, SigLIP).",
        needs={"rerank": ("clip", "both")},
    )
    no_consensus: bool = _decoding(
        False, "The same as --rerank none.", hidden=True, unless={"rerank": ("clip", "both")}
    )
    caution: float | None = _decoding(
        None,
        "What a consensus network's probability that no word is wrong counts beside the CIDEr that it expects (0 to "
        "10). Above 0, shorter and more general forms compete too. Unless given, the network's default; 0 scores best.",
        least=0,
        most=100,
        unless={"rerank": ("clip", "none"), "no_consensus": True},
    )
    length_penalty: float | None = _decoding(
        None,
        "Beams are ranked by log-probability / length ** this: 1 is the mean, 0 (the least) favours short captions. "
        "0.6 unless given, or 1 with a checkpoint of the ClipCap programs.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rerank_model = absolute(self.rerank_model)
        if self.no_consensus:
            self.rerank = "none"


@dataclass
class DecodingOptions(BeamOptions):
    """How captions are decoded."""

    top_p: float | None = _decoding(None, "Sample from the fewest tokens that hold this probability.")
    top_k: int | None = _decoding(None, "Sample from this many likeliest tokens.")
    temperature: float = _decoding(1.0, "Sample from logits divided by this; below 1 is more careful.")
    sample: bool = _decoding(False, "Sample, even with no other option of sampling.")
    num_return: int = _decoding(1, "Captions for each video, best first.", most=1000)
    repetition_penalty: float = _decoding(1.0, "Make tokens that were used already less likely by this factor.")
    no_repeat_ngram: int = _decoding(0, "Never write the same n tokens in a row twice; 0 is off.")
    seed: int = _run(0, "Seed of sampling.", most=LARGEST_SEED)


@dataclass
class WordingOptions(Part):
    """Which captions become texts and subtitles, and how."""

    min_support: float = _output(
        0.0,
        "Leave captions of less support than this out of texts and subtitles; needs a consensus network.",
        least=0,
        most=1,
    )
    unmarked: bool = _output(False, "Do not begin unsure captions of texts and subtitles with (unsure).")

    @property
    def wording(self) -> Wording:
        return Wording(min_support=self.min_support, marked=not self.unmarked)


@dataclass
class FormatOptions(WordingOptions):
    """In which forms captions are written."""

    to: list[str] | None = _output(
        None,
        "Write this form; give it several times for several. One file a video: txt, srt, vtt, ass, vtt-descriptions "
        "(for audio description). One for all: json, jsonl, csv, parquet, coco.",
        choices=FORMATS,
    )
    prefix_text: str = _output("", "Put before each caption of a txt.")
    suffix_text: str = _output("", "Put behind each caption of a txt.")

    @property
    def wording(self) -> Wording:
        return Wording(self.prefix_text, self.suffix_text, self.min_support, not self.unmarked)


@dataclass
class SecondOptions(Part):
    """Another model that is asked where ours is not sure."""

    second_opinion: str | None = _second(
        None,
        "Address of a server that speaks OpenAI's protocol, e.g. http://127.0.0.1:8000/v1: captions of little support "
        "are replaced by its own. Frames of these videos are sent there.",
    )
    second_model: str | None = _second(None, "Its model.", needs={"second_opinion": ANY})
    below: float = _second(
        0.6, "Ask where our caption has less support than this.", least=0, most=1, needs={"second_opinion": ANY}
    )
    second_prompt: Path | None = _second(
        None, "A text file with the prompt, if not the one that comes along.", needs={"second_opinion": ANY}
    )
    second_frames: int = _second(4, "Frames that are sent of each.", least=1, most=64, needs={"second_opinion": ANY})
    second_timeout: float = _second(
        60.0, "Seconds that an answer may take.", above=0, most=3600, needs={"second_opinion": ANY}
    )
    second_jobs: int = _second(4, "Questions at once.", least=1, most=256, needs={"second_opinion": ANY})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second_opinion is not None:
            require_web_address(self.second_opinion, "--second_opinion")
        if self.second_opinion is not None and self.second_model is None:
            raise ClipcapError("--second_opinion needs the name of a model that the server has; give --second_model")


@dataclass
class InferConfig(
    FormatOptions, SecondOptions, EngineOptions, DecodingOptions, DamageOptions, CaptionerOptions, Options
):
    """Options of `inference_vtt.py`."""

    epoch: int | None = _input(
        None, "Take the checkpoint MODEL_DIR/PREFIX-EPOCH instead of the best.", needs={"model_dir": ANY}, chooses=True
    )
    prefix: str | None = _input(
        None,
        "Name of the checkpoints that --epoch chooses among, if there are several.",
        needs={"epoch": ANY},
        chooses=True,
    )
    videos: list[Path] | None = _input(
        None, "Videos to caption: folders, videos, or text files of paths.", argument=True, aside=BESIDE_VIDEOS
    )
    data: Path | None = _input(
        None,
        "Features to caption; without videos, those that the model was trained on, else "
        "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5 or features in the working folder.",
        unless={"videos": ANY},
    )
    caption: list[Path] | None = _input(
        None, "Annotations: which videos are in the split, and references to score against."
    )
    paragraphs: bool = _input(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined, and not each "
        "segment by itself.",
    )
    split: str | None = _input(None, "Split to caption; test, else validate, unless given.", unless={"videos": ANY})
    out: Path | None = option(
        None,
        "Where the captions go: predictions.json here with videos, else in the model's folder.",
        panel="Output",
        made=FILE,
    )
    report: Path | None = option(
        None,
        "Also write a page of the videos with frames and captions.",
        panel="Output",
        made=FILE,
        needs={"videos": ANY},
    )

    sidecar_dir: Path | None = _output(
        None, "Folder for what is one file a video; beside the videos unless given.", made=SHARED
    )
    overwrite: bool = _output(
        False, "Replace outputs that are there already, whatever they are the result of.", once=True
    )

    bs: int = _run(64, "Videos decoded at once.", least=1)
    dry_run: bool = _run(False, "Say what the run would take, measured on a few videos, and do nothing.", once=True)

    mapping_type: str | None = _architecture(None, "Mapping network.", choices=MAPPING_NETWORKS)
    cross: bool = _architecture(False, "The same as --mapping_type cross.")
    prefix_length: int | None = _architecture(None, "Prefix length.")
    prefix_length_clip: int | None = _architecture(None, "Most frames of a video.")
    num_layers: int | None = _architecture(None, "Layers of the mapping transformer.")
    normalize_prefix: bool = _architecture(False, "Features are divided by their L2 norm.")
    is_rn: bool = _architecture(False, "Features are RN50x4's, 640 wide.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross:
            self.mapping_type = "cross"
        if self.shard and self.report and not self.tables:
            raise ClipcapError("--report shows the videos of all shares, from a table of them; add --to json")
        # Absolute, so that the run's record finds them from any working folder.
        self.lm, self.encoder = absolute(self.lm), absolute(self.encoder)

    @property
    def formats(self) -> list[str]:
        """The names of the forms that are written."""
        return self.to or [(self.out and name_of_table(self.out)) or "json"]

    @property
    def tables(self) -> dict[str, Path]:
        """Format -> where the captions of the whole run go."""
        return {name: table_file(self._out, name) for name in self.formats if not FORMATS[name].is_sidecar}

    @property
    def place(self) -> Path:
        """Where the captions go first of all; their scores and the record of the run lie beside it."""
        return next(iter(self.tables.values()), self._out)

    @property
    def _out(self) -> Path:
        if self.out is not None or self.videos is not None:
            return self.out or Path("predictions.json")
        # Beside the checkpoints, not in one: the next better epoch replaces those.
        folder = self.model_dir or Path()
        return (folder.parent if folder.is_file() else folder) / "predictions.json"

    def outputs(self) -> list[tuple[str, Path, str]]:
        out, page = self.place, [] if self.report is None else [("--report", self.report, FILE)]
        tables = [("--out", table, FILE) for table in self.tables.values()]
        beside = [scores_beside(out), out.with_name(f"{out.stem}.warnings.jsonl")]
        if self.model_dir is not None and self.videos is None:
            beside += [out.with_name(f"{score}{name}") for score in ("", "score") for name in PROGRAM_FILES]
        folder = [] if self.sidecar_dir is None else [("--sidecar_dir", self.sidecar_dir, SHARED)]
        return [*tables, *page, *(("--out", path, BESIDE) for path in beside), *folder]


def scores_beside(out: Path) -> Path:
    """Where the scores of the captions in `out` go."""
    return out.with_name("scores.json" if out.name == "predictions.json" else f"{out.stem}.scores.json")


def chosen_settings(config: BeamOptions) -> DecodingSettings:
    """The decoding settings among a command's options; what was not chosen is left as it is."""
    from clipcap_video.decoding import DecodingSettings

    names = {field.name for field in fields(DecodingSettings)}
    chosen = {name: value for name, value in vars(config).items() if name in names and value is not None}
    if "beam_size" not in chosen:
        chosen["beam_size"] = max(DecodingSettings.beam_size, chosen.get("num_return", 1))
    return DecodingSettings(**chosen)
