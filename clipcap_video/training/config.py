"""The options of a training run, composed of parts: the command line, the record in the checkpoint and the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.registry import METRICS
from clipcap_video.models.options import ModelOptions
from clipcap_video.models.registry import CAPTIONERS
from clipcap_video.runs.defaults import default_annotations, default_features
from clipcap_video.runs.options import (
    LARGEST_SEED,
    SHARED,
    Options,
    Part,
    absolute,
    check_prefix,
    default_of,
    option,
    option_fields,
    refuse_idle,
)
from clipcap_video.training.objectives.options import ObjectiveOptions
from clipcap_video.training.objectives.registry import OBJECTIVES

_data, _model, _step, _kept = (partial(option, panel=name) for name in ("Data", "Model", "Optimisation", "Checkpoints"))


@dataclass
class DataOptions(Part):
    """What a captioner learns from, and what it reads of that."""

    data: Path | None = _data(
        None,
        "Features: the folder from extract_features.py, or an .hdf5 file. Unless given, "
        "MSRVTT_TRNVAL_CLIP_FEATURES.hdf5 where it is in the working folder or its CV_Project_Dataset, else features.",
        free=True,
    )
    caption: list[Path] | None = _data(
        None,
        "Annotations: MSR-VTT json, a file of another dataset (docs/datasets.md), or JSONL or CSV of video, "
        "caption[, split]. May be given several times. "
        "Unless given, train_val_videodatainfo.json, looked for likewise, else videodatainfo.json.",
        free=True,
    )
    paragraphs: bool = _data(
        False,
        "Of timed sentences (ActivityNet Captions, DiDeMo): take each video whole, its sentences joined, and not each "
        "segment by itself.",
    )
    out_dir: Path = _data(Path("out"), "Where the checkpoints and metrics.jsonl go.", free=True, made=SHARED)
    train_split: str = _data("train", "Split to train on.")
    eval_split: str = _data(
        "validate", "Split to validate on; skipped when the annotations have none.", unless={"eval_every": 0}
    )
    captions_per_video: int = _data(
        0,
        "Captions of each video that an epoch trains on, taking turns; 0 is all of them.",
        least=0,
        unless={"objective": "scst", "text_only": True},
    )
    max_caption_tokens: int = _data(40, "Longer captions are cut to this many tokens.", least=1)
    raw_captions: bool = _data(
        False,
        "Train on captions as they are. Unless given, those that have their verb twice, as some of MSR-VTT, lose the "
        'first: "there is a man is talking" is "a man is talking".',
    )

    lower_case: bool = _data(
        False,
        "Captions in lower case and without a full stop at their end, as those of MSR-VTT: one spelling of each word "
        "where several data sets are learned from.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.caption = self.caption or [default_annotations()]
        self.data = self.data or default_features()


@dataclass
class ChoiceOptions(Part):
    """Which captioner, and what its kinds have in common."""

    model: str = _model(
        "prefix",
        "prefix: a mapping network in front of a language model. lstm: a recurrent network that reads the frames and "
        "another that writes the words, trained from scratch; --lr is 2e-3 and --dropout 0.3 unless given.",
        fixed=True,
        choices=CAPTIONERS,
    )
    prefix_length_clip: int = _model(
        0, "Most frames of a video that are used, evenly spread; 0 is as many as the data has.", fixed=True, least=0
    )
    dropout: float = _model(0.1, "Dropout in what is trained from scratch.", fixed=True, least=0, below=1)
    is_rn: bool = _model(
        False, "Require RN50x4's 640-wide features. The width is read from the data in any case.", fixed=True
    )


@dataclass
class OptimisationOptions(Part):
    """How the weights move."""

    objective: str = _step(
        "xe",
        "xe: cross-entropy with the captions. contrastive: that, and a loss by which videos and captions find each "
        "other; --retrieval_loss alone says so too. scst: self-critical, samples are rewarded by their CIDEr; for a "
        "model that xe trained before, see --init_from.",
        choices=OBJECTIVES,
    )
    init_from: Path | None = _step(
        None, "Start from the weights of this run or checkpoint; the options of the model are taken from it."
    )
    average: float = _step(
        0.0,
        "Validate and keep a moving average of the weights; each step this share of it stays, e.g. 0.999. 0 is off.",
        least=0,
        below=1,
    )
    epochs: int = _step(10, "Passes over the videos.", least=1)
    bs: int = _step(40, "Videos in a batch, each with all its captions of the epoch.", least=1)
    grad_accum: int = _step(1, "Batches a step.", least=1)
    lr: float = _step(1e-4, "Peak learning rate of what is trained from scratch.", above=0, most=100)
    warmup_steps: int = _step(
        -1, "Steps of linear warm-up, at most the whole run; -1 is a twentieth of the run.", least=-1
    )
    weight_decay: float = _step(0.01, "Weight decay of matrices; biases and norms have none.", least=0)
    label_smoothing: float = _step(
        0.0, "Share of the target spread over the vocabulary.", least=0, below=1, unless={"objective": "scst"}
    )
    clip_norm: float = _step(1.0, "Gradients are scaled down to this norm; 0 is off.", least=0)
    max_minutes: float = _step(
        0.0, "End the run after so many minutes of training, validation not counted; 0 is no limit.", free=True, least=0
    )
    precision: Literal["auto", "fp32", "bf16"] = _step("auto", "auto is bf16 where the device is fast at it.")
    device: str = _step("auto", "auto takes CUDA, then MPS, then the CPU.", free=True)
    seed: int = _step(0, "Every random choice follows from it.", most=LARGEST_SEED)


@dataclass
class CheckpointOptions(Part):
    """What a run keeps, and by which score."""

    prefix: str = _kept("prefix", "Name of the kept checkpoints: OUT/PREFIX-EPOCH.", free=True)
    save_every: int = _kept(
        1, "Keep a checkpoint every so many epochs; 0 keeps best and last only.", free=True, least=0
    )
    eval_every: int = _kept(1, "Validate every so many epochs, and at the end; 0 never.", free=True, least=0)
    eval_beam_size: int = _kept(
        5,
        "Beams of the captions that validation scores; 1 is greedy.",
        free=True,
        least=1,
        most=1000,
        unless={"eval_every": 0},
    )
    best_by: str = _kept(
        "CIDEr",
        "Score on the validation split that the best checkpoint has most of.",
        choices=METRICS,
        unless={"eval_every": 0},
    )
    resume: bool = _kept(False, "Go on from OUT/last, or start if there is none.", once=True)
    track: str | None = option(
        None,
        "Also send losses, rates and scores to this tracker, e.g. tensorboard (in OUT/tracking).",
        panel="Run",
        free=True,
    )
    dry_run: bool = option(
        False, "Say what the run would take, measured on a few steps, and do nothing.", panel="Run", once=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prefix(self.prefix)


class TrainConfig(Options):
    """Options of `train_vtt.py`; names and meanings follow the ClipCap programs where they have them.

    Made of keywords, `TrainConfig(model="lstm", lr=1e-3)`; one that is left out, or None, is unset and takes its
    default, which the model and its recipe decide. Each option is an attribute of the whole: `config.lr`.

    given: the options that were set. model_options, objective_options: the parts that were chosen.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def parts(cls) -> list[type[Part]]:
        choices = [*CAPTIONERS.values(), OptimisationOptions, *OBJECTIVES.values()]
        return [DataOptions, ChoiceOptions, *choices, CheckpointOptions]

    def __init__(self, **values: Any) -> None:
        known = {item.name: item for item in option_fields(self)}
        for name in values:
            if name not in known:
                raise TypeError(f"there is no option {name!r}")
        given = {name: value for name, value in values.items() if value is not None}
        self.given = set(given)
        given = self.implied(given)
        if "init_from" in given:
            given |= _taken_from(Path(given["init_from"]), given)
        model: type[ModelOptions] = CAPTIONERS.find(given.get("model", default_of(known["model"])))
        objective: type[ObjectiveOptions] = OBJECTIVES.find(given.get("objective", default_of(known["objective"])))
        given = {**model.defaults(given), **given}
        made: dict[Any, Any] = {part: part(**_named(part, given)) for part in self.parts()}
        for part in made.values():
            self.__dict__.update(_named(type(part), vars(part)))
        self.model_options, self.objective_options = made[model], made[objective]
        refuse_idle(self)
        self.model_options.check(self)
        self.objective_options.check(self)

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        implied = dict(values)
        for kind in (*CAPTIONERS.values(), *OBJECTIVES.values()):
            kind.imply(implied)
        return implied

    @property
    def reference(self) -> bool:
        """Whether the run follows the MSR-VTT ClipCap program."""
        return self.recipe == "reference"


def _named(part: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: values[item.name] for item in fields(part) if item.name in values}


def _taken_from(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The options that describe the model, as those of the checkpoint that training starts from."""
    from clipcap_video.models.checkpoint import find_checkpoint, read_config

    _, info = read_config(find_checkpoint(run))
    taken = {}
    for item in option_fields(TrainConfig):
        if not item.metadata.get("fixed"):
            continue
        taken[item.name] = info.training.get(item.name, default_of(item))
        mine = given.get(item.name, taken[item.name])
        if item.metadata.get("added") and not taken[item.name]:
            taken[item.name] = mine
        if taken[item.name] not in (mine, absolute(mine) if isinstance(mine, str) else mine):
            raise ClipcapError(
                f"--{item.name} {mine} differs from the {taken[item.name]} of {run}, which --init_from starts from; "
                "leave it out"
            )
    return {name: value for name, value in taken.items() if value is not None}
