"""`clipcap-video evaluate`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import BESIDE, FILE, LARGEST_SEED, Options, option


@dataclass
class EvaluateConfig(Options):
    """Options of `clipcap-video evaluate`."""

    predictions: Path = option(
        MISSING,
        "Captions to score: the predictions.json of inference, or a JSON object that gives each video id its caption.",
        argument=True,
    )
    caption: list[Path] = option(
        MISSING,
        "Annotation file with the reference captions: MSR-VTT JSON, CSV, JSONL or another dataset's file "
        "(docs/datasets.md). Repeat it for more files.",
    )
    paragraphs: bool = option(False, "Of timed sentences: each video whole, its sentences joined.")
    split: str | None = option(
        None,
        "Split to score, e.g. test. Without it, the split that the predictions name; if they name none, the videos "
        "that they caption.",
    )
    out: Path | None = option(None, "File for the scores; without it, scores.json beside the predictions.", made=FILE)
    allow_missing: bool = option(
        False,
        "Score the videos that have a prediction even if others of the split have none. Such scores do not compare "
        "with published ones.",
    )
    bootstrap: int = option(
        0,
        "Resamples of the videos that give each figure a 95 % interval; 1000 is usual, 0 gives none.",
        least=0,
    )
    seed: int = option(0, "Seed of --bootstrap.", most=LARGEST_SEED)
    examples: bool = option(
        False,
        "Also write score+exampleNAME beside the scores, as the MSR-VTT ClipCap program does: BLEU-4, ROUGE-L and "
        "CIDEr of each video, with its caption and a reference, on words between blanks.",
    )
    confidence_curve: Path | None = option(
        None,
        "Draw CIDEr by the captions' confidence to this file (.png, .svg or .pdf), and print it as a table: what a "
        "threshold would give. Confidence is the CIDEr that a consensus network expects, or without one the mean "
        "log-probability of a token.",
        made=FILE,
    )
    reliability: Path | None = option(
        None,
        "Draw to this file (.png, .svg or .pdf), and print as a table, whether captions of a probability p hold no "
        "wrong word in a share p of the cases.",
        made=FILE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.out = self.out or self.predictions.with_name("scores.json")

    def outputs(self) -> list[tuple[str, Path, str]]:
        (name, out, kind), *rest = super().outputs()
        beside = [("--examples", self.example_file, BESIDE)] if self.examples else []
        return [(name, out, kind if "out" in self.given else BESIDE), *beside, *rest]

    @property
    def example_file(self) -> Path:
        """Where --examples go."""
        assert self.out is not None
        return self.out.with_name(f"score+example{self.predictions.name}")


def _evaluate(config: EvaluateConfig) -> None:
    """Score captions with the official metrics: BLEU, METEOR, ROUGE-L and CIDEr.

    The figures are those of the COCO caption evaluation that papers report. METEOR needs Java; without it the
    other figures come out the same and METEOR is left out.

    Examples:
      clipcap-video evaluate predictions.json --annotations captions.csv
      clipcap-video evaluate captions.coco.json --annotations captions_val2014.json --bootstrap 1000
      clipcap-video evaluate out/pred_beam.json --annotations videodatainfo.json --split validate --examples
    """
    from clipcap_video.captioning.predictions import PredictionFile, load_captions
    from clipcap_video.datasets.annotations import read_annotations
    from clipcap_video.datasets.matching import under_names
    from clipcap_video.metrics.captioning import describe_scores, evaluate_captions, save_scores

    captions, own_split = load_captions(config.predictions)
    split = config.split or own_split
    records = under_names(read_annotations(config.caption, config.paragraphs), captions)
    curve = config.confidence_curve
    sure = PredictionFile.load(config.predictions).confidence() if curve is not None else {}
    scores = evaluate_captions(
        captions, records, split, allow_missing=config.allow_missing, bootstrap=config.bootstrap, seed=config.seed
    )
    out = config.out
    assert out is not None
    save_scores(scores, out, split)
    print(describe_scores(scores))
    print(f"written to {out}")
    if config.examples:
        from clipcap_video.captioning.program_files import write_examples

        references = {one.video_id: one.captions for one in records}
        said = {video: captions[video] for video in scores.per_video}
        print(f"examples: {write_examples(config.example_file, said, references)}")
    if curve is not None:
        from clipcap_video.metrics.confidence import confidence_curve, describe_curve
        from clipcap_video.report.confidence_picture import draw_confidence_curve

        bins, correlation = confidence_curve(sure, scores.per_video)
        print(describe_curve(bins, correlation))
        print(f"curve: {draw_confidence_curve(bins, curve)}")
    if config.reliability is not None:
        from clipcap_video.consensus.caution import all_right
        from clipcap_video.metrics.cider import caption_words
        from clipcap_video.metrics.confidence import describe_reliability, reliability
        from clipcap_video.report.confidence_picture import draw_reliability

        texts = {one.video_id: [caption_words(text) for text in one.captions] for one in records}
        right = {video: all_right(caption_words(captions[video]), texts[video]) for video in scores.per_video}
        believed = PredictionFile.load(config.predictions).probabilities()
        tenths, error = reliability(believed, right)
        print(describe_reliability(tenths, error))
        print(f"{sum(right.values()) / len(right):.1%} of the captions hold no wrong word")
        print(f"reliability: {draw_reliability(tenths, error, config.reliability)}")


evaluate = Command(EvaluateConfig, _evaluate, "evaluate", records=True)
