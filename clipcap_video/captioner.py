"""A trained captioner as a library: from video files, or from stored features, to captions.

>>> captioner = Captioner.from_pretrained("out/")            # doctest: +SKIP
>>> prediction = captioner.caption("clip.mp4")
>>> print(prediction.text)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch

from clipcap_video.datasets.packing import stack_features, thin_frames
from clipcap_video.decoding import DecodingSettings, Hypothesis
from clipcap_video.decoding.search import decode
from clipcap_video.devices import autocast, pick_device, pick_precision
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.extraction import ExtractionSummary, extract, fitting_encoder
from clipcap_video.features import FeatureStore, Fingerprint, VideoFeatures, check_fingerprints, open_features
from clipcap_video.models.captioner import PrefixCaptioner
from clipcap_video.models.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint
from clipcap_video.models.language_model import keep_in
from clipcap_video.models.legacy import LegacyChoices, load_legacy
from clipcap_video.predictions import Caption, Prediction
from clipcap_video.video.files import find_videos

STARTER = Path(__file__).parent / "starter"


class Captioner:
    """Describes videos that it has not seen. Make one with `from_pretrained`."""

    def __init__(
        self, model: PrefixCaptioner, info: CheckpointInfo, source: Path, device: torch.device, precision: str
    ) -> None:
        self.model = model.to(device).eval()
        self.info = info
        self.source = source
        self.device = device
        # bf16 sums depend on the size of the batch, and with them now and then a word. A caption is to be the same
        # whatever it is batched with, so bf16 has to be asked for; the encoder's features do not depend on it so.
        self.precision = "fp32" if precision == "auto" else pick_precision(device, precision)
        keep_in(self.model.language_model, self.precision)
        self.encoder_precision = pick_precision(device, precision)
        self.notes: list[str] = []  # what was inferred from a checkpoint that does not say it
        self._encoder: ImageEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_dir: str | Path | None = None,
        *,
        lm: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        legacy: LegacyChoices | None = None,
    ) -> Captioner:
        """The captioner in `model_dir` (a checkpoint, or the out_dir of a run); without it, the starter captioner.

        model_dir: may also be a checkpoint of the ClipCap programs, or a folder of them.
        lm: where the frozen language model is, if not under the name that the checkpoint has; for a checkpoint of the
            ClipCap programs, which names none, the one that it was trained with ("gpt2" unless given).
        precision: "auto" encodes frames in bf16 where the device is fast at it, and writes captions in float32.
        legacy: what such a checkpoint does not tell.
        Raises ClipcapError when the checkpoint is missing, damaged or does not fit.
        """
        checkpoint = STARTER if model_dir is None else find_checkpoint(Path(model_dir))
        place = pick_device(device)
        notes: list[str] = []
        if checkpoint.suffix == ".pt" and checkpoint.is_file():
            model, report = load_legacy(checkpoint, lm, legacy)
            info, notes = CheckpointInfo(), report.inferred
        else:
            model, info = load_checkpoint(checkpoint, lm)
        captioner = cls(model, info, checkpoint, place, precision)
        captioner.notes = notes
        return captioner

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first one wins
        self, videos: str | Path, settings: DecodingSettings | None = None
    ) -> Prediction: ...

    @overload
    def caption(self, videos: Sequence[str | Path], settings: DecodingSettings | None = None) -> list[Prediction]: ...

    def caption(
        self, videos: str | Path | Sequence[str | Path], settings: DecodingSettings | None = None
    ) -> Prediction | list[Prediction]:
        """Captions of one video file, or of several, in their order; see DecodingSettings for what can be chosen.

        Raises ClipcapError for the first video that cannot be read.
        """
        single = isinstance(videos, str | Path)
        paths = [Path(video) for video in ([videos] if isinstance(videos, str | Path) else videos)]
        # Ids are running numbers here, for the same file may be asked for twice.
        numbered = {str(number): path for number, path in enumerate(paths)}
        for path in paths:
            find_videos(path)
        predictions, summary = self.caption_files(numbered, settings, progress=False)
        if summary.failures:
            raise ClipcapError(summary.failures[0].reason)
        named = [replace(found, video=numbered[found.video].stem) for found in predictions]
        return named[0] if single else named

    def caption_files(
        self,
        videos: dict[str, Path],
        settings: DecodingSettings | None = None,
        *,
        batch_size: int = 64,
        progress: bool = True,
    ) -> tuple[list[Prediction], ExtractionSummary]:
        """Captions of video files (id -> path) that can be read, and what was found out while reading them."""
        fingerprint = self.require_fingerprint()
        with tempfile.TemporaryDirectory(prefix="clipcap-video-") as folder:
            summary = extract(
                videos,
                self.encoder,
                fingerprint.sampling,
                Path(folder),
                normalize=fingerprint.normalized,
                progress=progress,
            )
            if not summary.done:
                return [], summary
            store = open_features(folder)
            read = [video_id for video_id in videos if video_id in store]
            predictions = self.caption_store(store, read, settings, batch_size=batch_size)
        return [replace(found, path=str(videos[found.video])) for found in predictions], summary

    def caption_store(
        self,
        store: FeatureStore,
        video_ids: Sequence[str],
        settings: DecodingSettings | None = None,
        *,
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Captions of stored features, in the order of `video_ids`.

        Raises ClipcapError when the features were made in another way than those the model was trained on.
        """
        check_fingerprints(self.info.fingerprint, store.fingerprint, store.path)
        predictions = []
        for start in range(0, len(video_ids), batch_size):
            ids = video_ids[start : start + batch_size]
            videos = [thin_frames(store.load(video_id), self.model.config.mapping.max_frames) for video_id in ids]
            found = self.caption_features([video.features for video in videos], settings, keys=ids)
            for video_id, video, hypotheses in zip(ids, videos, found, strict=True):
                predictions.append(self._prediction(video_id, video, hypotheses))
        return predictions

    @torch.inference_mode()
    def caption_features(
        self,
        features: Sequence[np.ndarray],
        settings: DecodingSettings | None = None,
        keys: Iterable[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """Hypotheses, best first, for each video's frame features [T_i, D].

        keys: names of the videos, from which sampling takes its random numbers.
        """
        settings = settings or DecodingSettings(length_penalty=self.length_penalty)
        settings = replace(settings, complete=settings.complete and self.model.whole_captions)
        width = self.model.config.mapping.feature_dim
        for video in features:
            if video.ndim != 2 or video.shape[1] != width:
                raise ClipcapError(
                    f"features of shape {list(video.shape)} do not fit the model in {self.source}, which reads "
                    f"[frames, {width}]; extract them with its encoder"
                )
        stacked, mask = (part.to(self.device) for part in stack_features(features))
        with autocast(self.device, self.precision):
            state = self.model.start(stacked, mask, settings.entry_length)
            return decode(
                state,
                len(features),
                self.model.stop_tokens,
                settings,
                video_keys=None if keys is None else list(keys),
            )

    @property
    def encoder(self) -> ImageEncoder:
        """The frozen encoder whose features the model was trained on; loaded when first needed."""
        if self._encoder is None:
            self.load_encoder()
        assert self._encoder is not None
        return self._encoder

    def load_encoder(self, name: str | None = None, weights: Path | None = None) -> None:
        """Loads the encoder, from another place than the checkpoint says if `name` or `weights` is given.

        Raises ClipcapError when it is not the encoder that the model was trained with.
        """
        self._encoder = fitting_encoder(self.require_fingerprint(), self.device, self.encoder_precision, name, weights)

    @property
    def length_penalty(self) -> float:
        """The length penalty that suits the model."""
        return self.model.length_penalty

    def describe(self) -> dict[str, str]:
        """What wrote the captions, in words for a person."""
        mapping, fingerprint = self.model.config.mapping, self.info.fingerprint
        network = f"{mapping.mapping_type}, {mapping.prefix_length} prefix tokens"
        return {
            "model": "starter" if self.source == STARTER else str(self.source),
            "mapping network": network,
            "frame features": "unknown" if fingerprint is None else str(fingerprint),
        }

    def require_fingerprint(self) -> Fingerprint:
        """How the features that the model was trained on were made. Raises ClipcapError where that is unknown."""
        if self.info.fingerprint is None:
            raise ClipcapError(
                f"the model in {self.source} was trained on features that do not say how they were made, so it cannot "
                "read video files; extract features the same way and give them with --data"
            )
        return self.info.fingerprint

    def _prediction(self, video_id: str, video: VideoFeatures, hypotheses: Sequence[Hypothesis]) -> Prediction:
        captions = [
            Caption(
                text=self.model.decode_tokens(hypothesis.tokens, hypothesis.stop_token),
                logprob=hypothesis.logprob,
                mean_logprob=hypothesis.mean_logprob,
                tokens=len(hypothesis.tokens),
                cut=hypothesis.cut,
            )
            for hypothesis in hypotheses
        ]
        times = [] if video.timestamps is None else [round(float(time), 3) for time in video.timestamps]
        return Prediction(video=video_id, captions=captions, timestamps=times)
