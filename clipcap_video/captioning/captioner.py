"""A trained captioner as a library: from video files, or from stored features, to captions.

>>> captioner = Captioner.from_pretrained("out/")            # doctest: +SKIP
>>> prediction = captioner.caption("clip.mp4")
>>> print(prediction.text)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.captioning.evidence import explain
from clipcap_video.captioning.hub import HubModel, fetch, names_repository
from clipcap_video.captioning.pictures import Video, encode_segments, is_one_video, sampled_frames
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.ranking import Reranking, load_ranker
from clipcap_video.captioning.streaming import caption_batches, joined
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.decoding.search import decode
from clipcap_video.devices import autocast, in_pieces, pick_device, pick_precision
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.encoders.trainable import load_trained_layers
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore, MemoryStore, Origin, VideoFeatures, stack_features, thin_frames
from clipcap_video.features.encode import EncodedVideo, encode_videos, fitting_encoder
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.logs import ExtractionSummary
from clipcap_video.files import STARTER
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.checkpoint import ENCODER_WEIGHTS, CheckpointInfo, find_checkpoint, load_checkpoint
from clipcap_video.models.legacy import LegacyChoices, load_legacy
from clipcap_video.models.mapping.joint import JointMapping
from clipcap_video.video.damage import MAX_DAMAGE
from clipcap_video.video.decoder import DECODER
from clipcap_video.video.files import find_videos, id_of
from clipcap_video.video.segments import Segmentation, SegmentedVideo, SegmentFrames

# What has the form of `Captioner.caption_files`.
CaptionFiles = Callable[..., tuple[list[Prediction], ExtractionSummary]]

# Hypotheses that a core follows at once on a CPU: enough for large products, few enough for its caches.
LANE_HYPOTHESES = 640
LARGE_WEIGHTS = 2**27  # bytes; beyond, even one video's products are worth all cores
RANKED_BEAMS = 40  # that a consensus network has to choose among, unless the user says


class Captioner(Reranking, HubModel):
    """Describes videos that it has not seen. Make one with `from_pretrained`.

    `save_pretrained` writes it to a folder with a model card, `push_to_hub` to the Hugging Face Hub.
    """

    def __init__(
        self, model: CaptionModel, info: CheckpointInfo, source: Path, device: torch.device, precision: str
    ) -> None:
        self.model = model.to(device).eval()
        self.info = info
        self.source = source
        self.device = device
        self.ranker = load_ranker(source, self.model.feature_dim, device)
        self.encoder_precision = pick_precision(device, precision)
        # bf16 moves what a search finds now and then; a network that chooses among many beams does not mind
        # (docs/quality.md), and on a CPU a caption is the same to the bit whatever it is batched with.
        ranked = self.ranker is not None and device.type == "cpu"
        self.precision = self.encoder_precision if ranked or precision != "auto" else "fp32"
        self.model.keep_in(self.precision, device)
        self.notes: list[str] = []  # what was inferred from a checkpoint that does not say it
        self._encoder: ImageEncoder | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's name for the first, which callers give by place
        cls,
        model_dir: str | Path | None = None,
        *,
        lm: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        legacy: LegacyChoices | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Captioner:
        """The captioner in `model_dir` (a checkpoint, or the folder of a run); without it, the starter captioner.

        model_dir: may also be a checkpoint of the ClipCap programs, or a folder of them; or a repository OWNER/NAME
            of the Hugging Face Hub, which is fetched unless it is in the cache.
        lm: where the frozen language model is, if not under the name that the checkpoint has; for a checkpoint of the
            ClipCap programs, which names none, the one that it was trained with ("gpt2" unless given).
        precision: "auto" is bf16 where the device is fast at it, for the encoder and, on a CPU, for captions that a
            consensus network chooses; else fp32.
        legacy: what such a checkpoint does not tell.
        revision, token, cache_dir, force_download, local_files_only: for the Hub, as in ModelHubMixin.
        Raises ClipcapError when the checkpoint is missing, damaged or does not fit.
        """
        if model_dir is not None and names_repository(model_dir):
            model_dir = fetch(
                str(model_dir), revision=revision, token=token, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only,
            )  # fmt: skip
        checkpoint = STARTER if model_dir is None else find_checkpoint(Path(model_dir))
        place = pick_device(device)
        notes: list[str] = []
        model: CaptionModel
        if checkpoint.suffix == ".pt" and checkpoint.is_file():
            model, report = load_legacy(checkpoint, lm, legacy)
            info, notes = CheckpointInfo(), report.inferred
        else:
            model, info = load_checkpoint(checkpoint, lm)
        captioner = cls(model, info, checkpoint, place, precision)
        console.detail(f"loaded {captioner!r}")
        captioner.notes = notes
        return captioner

    @overload
    def caption(self, videos: list[Any], settings: DecodingSettings | None = None) -> list[Prediction]: ...
    @overload
    def caption(self, videos: Video, settings: DecodingSettings | None = None) -> Prediction: ...
    @overload
    def caption(self, videos: Sequence[Any], settings: DecodingSettings | None = None) -> list[Prediction]: ...

    def caption(
        self, videos: Video | Sequence[Any], settings: DecodingSettings | None = None
    ) -> Prediction | list[Prediction]:
        """Captions of one video, or of a list of them, in their order; see DecodingSettings for what can be chosen.

        videos: paths of files; frames in memory, uint8 RGB [T, H, W, 3] or [H, W, 3]; PIL images. In a list each is a
            video of its own, and a list in it is the frames of one.
        Raises ClipcapError for the first video that cannot be read.
        """
        single = is_one_video(videos)
        given: list[Any] = [videos] if single else list(videos)  # type: ignore[arg-type]
        # Ids are running numbers here, for the same file may be asked for twice.
        paths = {str(place): Path(one) for place, one in enumerate(given) if isinstance(one, str | Path)}
        for path in paths.values():
            find_videos(path)
        settings = settings or self.default_settings()
        predictions, summary = self.caption_files(paths, settings, progress=False)
        if summary.failures:
            raise ClipcapError(summary.failures[0].reason)
        found = {one.video: replace(one, video=id_of(paths[one.video])) for one in predictions}
        sampling, preprocess = self.require_fingerprint().sampling, self.encoder.preprocess
        for name in map(str, range(len(given))):
            if name not in paths:
                frames = sampled_frames(given[int(name)], sampling, preprocess)
                (one,) = self.caption_segments(name, [frames], settings)
                found[name] = replace(one, start=None, end=None, timestamps=[])
        named = [found[str(place)] for place in range(len(given))]
        return named[0] if single else named

    def stream(
        self, video: str | Path, segments: str = "shots", settings: DecodingSettings | None = None
    ) -> Iterator[Prediction]:
        """Captions of a long video's segments, with start and end in seconds, as they are done.

        segments: `shots`, `fixed:SECONDS` or `whole`. Neighbours that say the same are one.
        Raises ClipcapError when the video cannot be read.
        """
        sampling = self.require_fingerprint().sampling
        read = SegmentedVideo(Path(video), Segmentation.parse(segments), sampling, self.encoder.preprocess)
        batches = self.caption_batches(read, settings, batch_size=4)
        yield from joined(replace(one, path=str(video)) for batch in batches for one in batch)

    def caption_batches(
        self,
        video: SegmentedVideo,
        settings: DecodingSettings | None = None,
        *,
        name: str | None = None,
        batch_size: int = 16,
    ) -> Iterator[list[Prediction]]:
        """Captions of a video's segments, in their order, some at a time. name: its id; the stem unless given."""
        name = name or video.path.stem
        return caption_batches(lambda batch: self.caption_segments(name, batch, settings), video, batch_size)

    def caption_files(
        self,
        videos: dict[str, Path],
        settings: DecodingSettings | None = None,
        *,
        batch_size: int = 64,
        progress: bool = True,
        evidence: bool = False,
        max_damage: float = MAX_DAMAGE,
        keep: Callable[[list[Prediction]], list[Prediction]] = list,
    ) -> tuple[list[Prediction], ExtractionSummary]:
        """Captions of video files (id -> path) that can be read, and what was found out while reading them.

        evidence: find out too how much each frame mattered for the best caption. max_damage: the largest share of
        damaged frames with which a video is used. keep: is given predictions as soon as they are there, and gives what
        is to be returned in their place.
        """
        fingerprint = self.require_fingerprint()
        summary = ExtractionSummary(fingerprint)
        encoded = encode_videos(
            videos, self.encoder, fingerprint.sampling, normalize=fingerprint.normalized, max_damage=max_damage
        )
        bar = tqdm(encoded, total=len(videos), unit="video", disable=console.hides_bars(progress))
        predictions: list[Prediction] = []
        store = MemoryStore(self.source, fingerprint)

        def caption_waiting() -> None:
            captioned = self.caption_store(store, list(store.videos), settings, batch_size=batch_size)
            if evidence:
                captioned = explain(self.model, store, captioned, self.device, self.precision)
            predictions.extend(keep([replace(one, path=str(videos[one.video])) for one in captioned]))

        # Batch by batch, so that the features of many videos are never in memory together.
        for video_id, video in bar:
            summary.count(video_id, videos[video_id], video)
            if isinstance(video, EncodedVideo):
                store.add(video_id, video.features, video.timestamps, Origin(DECODER, video.damage))
            if len(store.videos) == batch_size:
                caption_waiting()
                store = MemoryStore(self.source, fingerprint)
        caption_waiting()
        return predictions, summary

    def caption_store(
        self,
        store: FeatureStore,
        video_ids: Sequence[str],
        settings: DecodingSettings | None = None,
        *,
        batch_size: int = 64,
        damaged: dict[str, str] | None = None,
    ) -> list[Prediction]:
        """Captions of stored features, in the order of `video_ids`.

        damaged: takes the videos whose features cannot be read, with the reason; unless given, they are an error.
        Raises ClipcapError when the features were made in another way than those the model was trained on.
        """
        self.check_features(store)
        predictions = []
        for start in range(0, len(video_ids), batch_size):
            found = store.load_sound(video_ids[start : start + batch_size], damaged)
            if not found:
                continue
            ids, videos = list(found), [thin_frames(video, self.model.max_frames) for video in found.values()]
            hypotheses_of = self.caption_features([video.features for video in videos], settings, keys=ids)
            for video_id, video, hypotheses in zip(ids, videos, hypotheses_of, strict=True):
                predictions.append(
                    replace(self._prediction(video_id, video, hypotheses), damage=store.origin(video_id).damage or None)
                )
        return predictions

    def caption_segments(
        self, video_id: str, segments: Sequence[SegmentFrames], settings: DecodingSettings | None = None
    ) -> list[Prediction]:
        """Captions of parts of one video, whose frames went through the encoder's `preprocess`, in one batch."""
        encoded = encode_segments(self.encoder, segments, self.require_fingerprint().normalized)
        videos = [thin_frames(video, self.model.max_frames) for video in encoded]
        keys = [f"{video_id}@{segment.start:.3f}" for segment in segments]
        hypotheses_of = self.caption_features([video.features for video in videos], settings, keys)
        return [
            replace(self._prediction(video_id, video, hypotheses), start=segment.start, end=segment.end)
            for video, hypotheses, segment in zip(videos, hypotheses_of, segments, strict=True)
        ]

    def caption_features(
        self,
        features: Sequence[np.ndarray],
        settings: DecodingSettings | None = None,
        keys: Iterable[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """Hypotheses, best first, for each video's frame features [T_i, D].

        keys: names of the videos, from which sampling takes its random numbers.
        """
        settings = settings or self.default_settings()
        settings = replace(settings, complete=settings.complete and self.model.whole_captions)
        self.text_side(settings)  # loaded before cores share the work
        width = self.model.feature_dim
        for video in features:
            if video.ndim != 2 or video.shape[1] != width:
                raise ClipcapError(
                    f"features of shape {list(video.shape)} do not fit the model in {self.source}, which reads "
                    f"[frames, {width}]; extract them with its encoder"
                )
        names = list(map(str, range(len(features)))) if keys is None else list(keys)

        def work(piece: slice) -> list[list[Hypothesis]]:
            return self._decoded(features[piece], settings, names[piece])

        weights = sum(weight.nbytes for weight in self.model.parameters())
        most = max(1, LANE_HYPOTHESES // settings.lanes)
        return in_pieces(work, len(features), most, self.device, spread_one=weights > LARGE_WEIGHTS)

    @torch.inference_mode()
    def _decoded(
        self, features: Sequence[np.ndarray], settings: DecodingSettings, names: Sequence[str]
    ) -> list[list[Hypothesis]]:
        """Hypotheses for frame features [T_i, D] that fit the model. names: of the videos, as of `caption_features`."""
        longest = self.model.max_frames if self.precision == "bf16" else 0  # its sums depend on how many are summed
        stacked, mask = (part.to(self.device) for part in stack_features(features, longest))
        with autocast(self.device, self.precision):
            state = self.model.start(stacked, mask, settings.entry_length)
            hypotheses = decode(
                state,
                len(features),
                self.model.stop_tokens,
                # What is reordered afterwards is decoded whole first.
                replace(settings, num_return=settings.lanes) if self.reorders(settings) else settings,
                video_keys=names,
            )
            return self.ordered(hypotheses, stacked, mask, settings)

    def default_settings(self) -> DecodingSettings:
        """The defaults of the checkpoint."""
        beams = RANKED_BEAMS if self.ranker is not None else DecodingSettings.beam_size
        rerank = DecodingSettings.rerank if self.ranker is None else self.ranker.config.rerank
        return DecodingSettings(length_penalty=self.model.length_penalty, beam_size=beams, rerank=rerank)

    @property
    def length_penalty(self) -> float:
        return self.model.length_penalty

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {value}" for name, value in self.describe().items())
        return f"Captioner({said}; {'consensus network; ' if self.ranker else ''}{self.precision} on {self.device})"

    @property
    def encoder(self) -> ImageEncoder:
        """The encoder whose features the model was trained on; loaded when first needed."""
        if self._encoder is None:
            self.load_encoder()
        assert self._encoder is not None
        return self._encoder

    def load_encoder(self, name: str | None = None, weights: Path | None = None) -> None:
        """Loads the encoder, from another place than the checkpoint says if `name` or `weights` is given.

        Raises ClipcapError when it is not the encoder that the model was trained with.
        """
        wanted, before = self.require_fingerprint(), self.model.encoder_weights_before
        console.detail(f"loading the encoder {name or wanted.encoder}")
        if before is None:
            self._encoder = fitting_encoder(wanted, self.device, self.encoder_precision, name, weights)
            return
        saved = self.info.training.get("encoder_weights")
        if weights is None and saved is not None and Path(saved).is_file():
            weights = Path(saved)
        untrained = replace(wanted, weights=before)
        encoder = fitting_encoder(untrained, self.device, self.encoder_precision, name, weights)
        load_trained_layers(encoder, self.source / ENCODER_WEIGHTS)
        encoder.weights_digest = wanted.weights
        self._encoder = encoder

    def remember(self, captions: Sequence[str]) -> None:
        """Other captions by which a captioner that learned from text alone tells videos (`--text_only`).

        Raises ClipcapError for a captioner that learned from videos.
        """
        mapping = getattr(self.model, "mapping", None)
        if not isinstance(mapping, JointMapping):
            raise ClipcapError(f"{self.source} was trained on videos, not with --text_only, and keeps no captions")
        if not captions:
            raise ClipcapError("no captions to remember; give one or more")
        mapping.memory = F.normalize(self.encoder.encode_text(list(captions)), dim=-1).to(self.device)

    def describe(self) -> dict[str, str]:
        """What wrote the captions, in words for a person."""
        fingerprint = self.info.fingerprint
        return {
            "model": "starter" if self.source == STARTER else str(self.source),
            **self.model.describe(),
            "frame features": "unknown" if fingerprint is None else str(fingerprint),
        }

    def check_features(self, store: FeatureStore) -> None:
        """Raises ClipcapError when the features were made in another way than those the model was trained on."""
        check_fingerprints(self.info.fingerprint, store.fingerprint, store.path)

    def require_fingerprint(self) -> Fingerprint:
        """How the features that the model was trained on were made. Raises ClipcapError where that is unknown."""
        if self.info.fingerprint is None:
            raise ClipcapError(
                f"the model in {self.source} was trained on features that do not say how they were made, so it cannot "
                "read video files; extract features the same way and give them with --features"
            )
        return self.info.fingerprint

    def _prediction(self, video_id: str, video: VideoFeatures, hypotheses: Sequence[Hypothesis]) -> Prediction:
        captions = [
            Caption.of(hypothesis, self.model.decode_tokens(hypothesis.tokens, hypothesis.stop_token))
            for hypothesis in hypotheses
        ]
        times = [] if video.timestamps is None else [round(float(time), 3) for time in video.timestamps]
        return Prediction(video=video_id, captions=captions, timestamps=times)
