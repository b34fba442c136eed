"""A random captioner and a video of shots, which tests of long and live videos share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.long_videos import LongVideo, caption_long_video
from clipcap_video.decoding import DecodingSettings
from clipcap_video.encoders import load_encoder
from clipcap_video.features.base import stack_features
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.models.language_model import digest_language_model, load_language_model
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.prefix_config import CaptionerConfig
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import Segmentation
from tests.clips import write_shots
from tests.tiny import WIDTH, fingerprint
from tests.tiny_clip import EMBED_DIM, save_tiny_clip

SHOTS = [30, 45, 25, 60, 31, 40]  # at 10 frames a second
SETTINGS = DecodingSettings(use_beam_search=False, entry_length=4)


class Numbers(PrefixCaptioner):
    """Writes its tokens as numbers: what a random language model says is hardly text."""

    def decode_tokens(self, tokens: list[int], stop_token: int | None = None) -> str:
        return " ".join(["it", "says", *map(str, tokens)])


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Captioner:
    """A random captioner whose words follow from the pictures."""
    clip = save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip.pt")
    encoder = load_encoder(str(clip), torch.device("cpu"), "fp32")
    language_model, tokenizer = load_language_model(str(tiny_lm))
    torch.manual_seed(3)
    mapping = MappingConfig("mlp", EMBED_DIM, 32, 4, 4)
    model = Numbers(
        CaptionerConfig(mapping, "tiny", digest_language_model(language_model), False), language_model, tokenizer
    )
    for weights in model.mapping.parameters():
        weights.data *= 20
    fingerprint = Fingerprint(encoder.name, encoder.weights_digest, encoder.preprocessing, SamplingSpec("uniform", 4))
    return Captioner(model, CheckpointInfo(fingerprint), Path("tiny"), torch.device("cpu"), "fp32")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shots(tmp_path_factory.mktemp("talk") / "talk.mkv", SHOTS)


def make(captioner: Captioner, talk: Path, folder: Path, **options: object) -> LongVideo:
    chosen = {"to": ("srt", "vtt"), "keep_log": True, "progress": False, "batch_size": 1} | options
    return caption_long_video(captioner, talk, Segmentation(), SETTINGS, folder=folder, **chosen)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def build(tiny_lm: Path, mapping_type: str = "transformer", max_frames: int = 30) -> Captioner:
    """A random captioner whose captions depend on the frames."""
    torch.manual_seed(0)
    language_model, tokenizer = load_language_model(str(tiny_lm))
    mapping = MappingConfig(mapping_type, WIDTH, 32, prefix_length=4, max_frames=max_frames, num_layers=2)
    model = PrefixCaptioner(CaptionerConfig(mapping, "tiny", "none", only_prefix=False), language_model, tokenizer)
    for parameter in model.mapping.parameters():
        parameter.data.normal_(std=1.0)
    return Captioner(model, CheckpointInfo(fingerprint()), Path("nowhere"), torch.device("cpu"), "fp32")


def plain_logprob(captioner: Captioner, features: np.ndarray, text: str) -> float:
    """Of one caption and its end, in one pass without a cache."""
    model = captioner.model
    tokens = torch.tensor([model.encode_caption(text, 40)])
    with torch.no_grad():
        prefix = model.mapping(*stack_features([features]))
        embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(tokens)], dim=1)
        logits = model.language_model(inputs_embeds=embedded).logits[:, prefix.shape[1] - 1 : -1]
    return float(logits.log_softmax(-1).gather(2, tokens[:, :, None]).sum())
