"""How good the captioner is while it trains: loss and CIDEr on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.metrics.captioning import score_figure
from clipcap_video.models.base import CaptionModel
from clipcap_video.training.data import CaptionData


@dataclass(frozen=True)
class ValidationScores:
    """loss: nats per token over all captions; figures: of its captions, times 1; example: one caption to look at."""

    loss: float
    figures: dict[str, float]
    example: str


@torch.no_grad()
def validate(
    model: CaptionModel,
    data: CaptionData,
    records: list[VideoRecord],
    batch_size: int,
    max_tokens: int,
    beam_size: int,
    figures: Sequence[str] = ("CIDEr",),
) -> ValidationScores:
    """Scores `model` on `data`, whose references are the captions of `records`. Leaves the model's mode as it was.

    Captions are decoded as at inference, with `beam_size` beams (1 is greedy), or nothing would tell which checkpoint
    will write the best ones: their order by greedy captions is another.
    """
    settings = DecodingSettings(
        entry_length=max_tokens,
        use_beam_search=beam_size > 1,
        beam_size=beam_size,
        length_penalty=model.length_penalty,
        complete=model.whole_captions,
    )
    was_training = model.training
    model.eval()
    references = {record.video_id: record.captions for record in records}
    captions: dict[str, str] = {}
    total = count = 0.0
    for start in range(0, len(data), batch_size):
        indices = list(range(start, min(start + batch_size, len(data))))
        batch = data.batch(indices, lambda index: data.captions[index]).to(model.device)
        # Once for both: where the encoder is trained along, this is nearly all of the work.
        batch = replace(batch, features=model.frame_features(batch.features, batch.mask))
        total += model(batch).item() * len(batch.labels)
        count += len(batch.labels)
        written = decode(
            model.start(batch.features, batch.mask, max_tokens),
            len(indices),
            model.stop_tokens,
            settings,
        )
        for index, hypotheses in zip(indices, written, strict=True):
            captions[data.video_ids[index]] = model.decode_tokens(hypotheses[0].tokens, hypotheses[0].stop_token)
    model.train(was_training)
    scored = {video_id: references[video_id] for video_id in captions}
    scores = {figure: score_figure(figure, captions, scored) for figure in figures}
    return ValidationScores(total / count, scores, next(iter(captions.values())))
