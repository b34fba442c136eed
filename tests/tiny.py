"""Tiny models, features and annotations in the real formats, made by the tests that need them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.store import write_features
from clipcap_video.models.language_model import create_language_model
from clipcap_video.video.sampling import SamplingSpec

SUBJECTS = ("a man", "a woman", "a dog", "two boys", "a cat", "a girl")
ACTIONS = ("is riding a horse", "is cooking in a kitchen", "plays with a ball", "sings a song on stage")
WIDTH = 16


def captions_of(number: int) -> list[str]:
    """Three captions that say what video `number` shows; subject and action follow from the number."""
    subject, action = SUBJECTS[number % len(SUBJECTS)], ACTIONS[number % len(ACTIONS)]
    return [f"{subject} {action}", f"{subject} {action} outside", f"here {subject} {action}"]


def features_of(number: int, frames: int | None = None) -> np.ndarray:
    """Features [T, WIDTH] from which subject and action can be read; T varies unless given."""
    rng = np.random.default_rng(number)
    features = rng.normal(size=(frames or 2 + number % 4, WIDTH)) * 0.1
    features[:, number % len(SUBJECTS)] += 2
    features[:, 8 + number % len(ACTIONS)] += 2
    return features.astype(np.float32)


def fingerprint(**changes: object) -> Fingerprint:
    values = {"encoder": "tiny", "weights": "sha256:0", "preprocessing": "none", "sampling": SamplingSpec()}
    return Fingerprint(**(values | changes))  # type: ignore[arg-type]


def write_feature_folder(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        features = features_of(number)
        write_features(folder, f"video{number}", features, np.arange(len(features)), fingerprint())
    return folder


def write_annotations(file: Path, train: range, validate: range, test: range = range(0)) -> Path:
    """An MSR-VTT json over the videos of the three splits."""
    named = [("train", number) for number in train]
    named += [("validate", number) for number in validate] + [("test", number) for number in test]
    videos = [{"video_id": f"video{number}", "split": split, "category": 0} for split, number in named]
    sentences = [
        {"video_id": f"video{number}", "caption": caption, "sen_id": 3 * number + turn}
        for _, number in named
        for turn, caption in enumerate(captions_of(number))
    ]
    file.write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    return file


def write_language_model(folder: Path, layers: int = 2, width: int = 32) -> Path:
    """A random GPT-2 with a tokenizer over the captions above, as `save_pretrained` writes them."""
    captions = [caption for number in range(24) for caption in captions_of(number)]
    create_language_model(captions, folder, vocab_size=400, layers=layers, width=width, heads=4)
    return folder
