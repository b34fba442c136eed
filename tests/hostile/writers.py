"""Every command that writes, in each of its forms, on a tiny project."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from clipcap_video.encoders import load_encoder
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.checkpoint import CheckpointInfo, save_checkpoint
from clipcap_video.models.language_model import digest_language_model, load_language_model
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.models.prefix_config import CaptionerConfig
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import write_shots
from tests.commands import run
from tests.conftest import TinyProject
from tests.tiny import write_annotations
from tests.tiny_clip import EMBED_DIM, save_tiny_clip

_TRAINING = "--data DATA --caption CAPTION --out OUT/out --device cpu --precision fp32 --resume"
_PREFIX = f"{_TRAINING} --bs 6 --epochs 2 --only_prefix --num_layers 1 --prefix_length 3 --eval_every 0"
_RETRIEVAL = "--out OUT/out --epochs 2 --bs 8 --device cpu --precision fp32 --resume --caption"
# What may follow the command; OUT/... is what it writes, the other capitals what it reads. A name is the command, and
# after a colon which of its forms.
WRITERS = {
    "extract:safetensors": "CLIPS --encoder CLIP --frames 4 --out OUT/features",
    "extract:parquet": "CLIPS --encoder CLIP --frames 4 --format parquet --out OUT/features",
    "extract:hdf5": "CLIPS --encoder CLIP --frames 4 --format hdf5 --out OUT/f.hdf5",
    "extract:shard": "CLIPS --encoder CLIP --frames 4 --shard 1/2 --out OUT/features",
    "train:prefix": f"{_PREFIX} --lm LM --save_every 1",
    "train:lstm": f"{_TRAINING} --epochs 2 --model lstm --rnn_width 16 --word_width 8 --head_width 8 --min_count 1 "
    "--eval_every 0 --save_every 0",
    "train:contrastive": f"{_PREFIX} --lm LM --save_every 0 --retrieval_loss 1 --text_encoder CLIP",
    "train:scst": f"{_TRAINING} --bs 6 --epochs 2 --init_from MODEL --objective scst --samples 2 --save_every 0 "
    "--eval_every 0 --max_caption_tokens 6",
    "train-consensus": "--model_dir OUT/model --data DATA --caption CAPTION --epochs 1 --networks 1 --hidden 16",
    "train-retrieval:features": f"{_RETRIEVAL} CAPTION --data DATA --text_encoder CLIP --dim 16 --save_every 1",
    "train-retrieval:videos": f"{_RETRIEVAL} NAMED --videos CLIPS --pretrained_clip_name CLIP --max_frames 2 "
    "--max_words 20 --bs 4",
    "evaluate-retrieval": "--model_dir FINDER --data DATA --caption CAPTION --out OUT/s.json --device cpu",
    "infer": "--model_dir MODEL --data DATA --out OUT/p.json",
    "infer:jsonl": "--model_dir MODEL --data DATA --out OUT/p.jsonl",
    "infer:csv": "--model_dir MODEL --data DATA --out OUT/p.csv",
    "infer:parquet": "--model_dir MODEL --data DATA --out OUT/p.parquet",
    "infer:coco": "--model_dir MODEL --data DATA --to coco --out OUT/p.coco.json",
    "infer:scored": "--model_dir MODEL --data DATA --caption CAPTION --split test --out OUT/p.json",
    "infer:beside": "CLIPS --model_dir WRITER --to txt --to srt --to vtt --to ass --to vtt-descriptions "
    "--sidecar_dir OUT/subtitles --out OUT/p.json --entry_length 4",
    "infer:report": "CLIPS --model_dir WRITER --out OUT/p.json --report OUT/page.html --entry_length 4",
    "caption:subtitles": "CLIPS --model_dir WRITER --out OUT/subtitles --entry_length 4 --jsonl",
    "caption:tables": "CLIPS --model_dir WRITER --out OUT/subtitles --entry_length 4 --to csv --to json --to parquet",
    "watch": "WATCHED --model_dir WRITER --out OUT/w.jsonl --entry_length 4 --patience 0.5 --device cpu",
    "evaluate": "PREDICTIONS --caption CAPTION --split test --allow_missing --out OUT/s.json --confidence_curve "
    "OUT/curve.png --reliability OUT/sure.svg",
    "report": "PREDICTIONS --out OUT/page.html",
    "search": "--like video3 --features DATA --index_dir OUT/index",
    "new-lm": "--caption CAPTION --out OUT/lm --layers 1 --width 16 --heads 2",
    "pack": "MODEL --out OUT/packed",
    "doctor": "--data DATA --caption CAPTION --json OUT/d.json",
    "convert:clipcap": "OLD --lm LM --out OUT/converted",
    "convert:back": "REFERENCE --to clipcap --out OUT/old",
    "convert:retrieval": "OLD4 --out OUT/converted",
    "convert:retrieval-back": "PATCHES --to clip4clip --out OUT/old",
    "convert:safetensors": "STORE --format safetensors --out OUT/features",
    "convert:parquet": "DATA --format parquet --out OUT/features",
    "convert:hdf5": "DATA --format hdf5 --out OUT/f.hdf5",
    "demo": "CLIPS --out OUT/demo",
}
# What writes nothing but what a browser or a caller uploads: tests/web has its tests.
NO_WRITERS = {"serve"}


def command_of(name: str) -> str:
    return name.partition(":")[0]


@dataclass(frozen=True)
class Workshop:
    """What the commands above read, by the names that they have there, each made when it is first asked for."""

    folder: Path
    project: TinyProject

    def words(self, name: str, out: Path) -> list[str]:
        """The words of a command line that writes into `out`, where what it adds to is put first."""
        words = [out / word[4:] if word.startswith("OUT/") else self._made(word) for word in WRITERS[name].split()]
        if name == "train-consensus" and not (out / "model").exists():
            shutil.copytree(self._made("MODEL"), out / "model")
        return [command_of(name), *map(str, words)]

    def read(self, line: str) -> str:
        """A line of words with what they stand for."""
        return " ".join(str(self._made(word)) for word in line.split())

    def _made(self, word: str) -> Path | str:
        """The place that a name of what is read stands for; any other word as it is."""
        known = {"DATA": self.project.data, "CAPTION": self.project.caption, "LM": self.project.lm}
        if word in known:
            return known[word]
        if not word.isupper() or word.startswith("-"):
            return word
        place = self.folder / word.lower()
        if word == "CLIP":
            place = place.with_suffix(".pt")
        elif word == "WATCHED":
            place = place.with_suffix(".mkv")
        elif word in ("PREDICTIONS", "NAMED"):
            place = place.with_suffix(".json")
        if not place.exists():
            getattr(self, f"_make_{word.lower()}")(place)
        inside = {"OLD": "clipcap-009.pt", "OLD4": "pytorch_model.bin.0", "MODEL": "last", "REFERENCE": "last"}
        return place / inside[word] if word in inside else place

    def _run(self, line: str, out: Path) -> None:
        words = [out if word == "OUT" else self._made(word) for word in line.split()]
        done = run("clipcap-video", *words)
        assert done.returncode == 0, done.stderr

    def _make_clip(self, place: Path) -> None:
        save_tiny_clip(place)

    def _make_clips(self, place: Path) -> None:
        place.mkdir()
        for number in range(6):
            write_shots(place / f"video{number}.mp4", [10])

    def _make_watched(self, place: Path) -> None:
        write_shots(place, [10] * 60)

    def _make_named(self, place: Path) -> None:
        write_annotations(place, range(4), range(4, 5), range(5, 6))

    def _make_predictions(self, place: Path) -> None:
        caption = {"text": "a man rides", "logprob": -3.0, "mean_logprob": -1.0, "tokens": 3, "probability": 0.5}
        entries = [{"video": f"video{number}", "captions": [caption]} for number in range(30, 36)]
        place.write_text(json.dumps({"version": 1, "predictions": entries}))

    def _make_model(self, place: Path) -> None:
        self._run(f"train {_PREFIX.replace('OUT/out', 'OUT')} --lm LM --save_every 0", place)

    def _make_reference(self, place: Path) -> None:
        self._run(
            "train --data DATA --caption CAPTION --lm LM --out OUT --recipe reference --epochs 1 --bs 6 --only_prefix "
            "--mapping_type mlp --prefix_length 3 --device cpu",
            place,
        )

    def _make_writer(self, place: Path) -> None:
        """A captioner of the tiny CLIP's features that learned nothing."""
        encoder = load_encoder(str(self._made("CLIP")), torch.device("cpu"), "fp32")
        language_model, tokenizer = load_language_model(str(self.project.lm))
        torch.manual_seed(0)
        config = CaptionerConfig(
            MappingConfig("mlp", EMBED_DIM, 32, 4, 4), str(self.project.lm), digest_language_model(language_model), True
        )
        made_by = Fingerprint(encoder.name, encoder.weights_digest, encoder.preprocessing, SamplingSpec("uniform", 4))
        save_checkpoint(place, PrefixCaptioner(config, language_model, tokenizer), CheckpointInfo(made_by))

    def _make_finder(self, place: Path) -> None:
        self._run(f"train-retrieval {WRITERS['train-retrieval:features'].replace('OUT/out', 'OUT')}", place)

    def _make_patches(self, place: Path) -> None:
        self._run(f"train-retrieval {WRITERS['train-retrieval:videos'].replace('OUT/out', 'OUT')}", place)

    def _make_old(self, place: Path) -> None:
        self._run("convert REFERENCE --to clipcap --out OUT", place)

    def _make_old4(self, place: Path) -> None:
        self._run("convert PATCHES --to clip4clip --out OUT", place)

    def _make_store(self, place: Path) -> None:
        self._run("convert DATA --format parquet --out OUT", place)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_project: TinyProject) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"), tiny_project)
