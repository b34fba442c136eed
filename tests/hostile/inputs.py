"""Files and options that nobody means, made anew: what each command must refuse in one sentence."""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

GARBAGE = bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8))
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548118077\n"
HTML = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>no</body></html>"


def texts() -> Iterator[tuple[str, bytes]]:
    """Contents that no reader of text, JSON, YAML or CSV expects."""
    yield "empty", b""
    yield "white", b" \n\t\n"
    yield "nul", b"\0" * 100
    yield "garbage", GARBAGE
    yield "html", HTML
    yield "lfs", LFS_POINTER
    yield "deep_list", b"[" * 100_000
    yield "deep_object", b'{"a":' * 50_000
    yield "deep_closed", b"[" * 5000 + b"]" * 5000
    yield "huge_integer", b'{"videos": ' + b"9" * 5000 + b"}"
    yield "huge_exponent", b'{"videos": 1e999999}'
    yield "not_a_number", b'{"videos": NaN}'
    yield "infinite", b"[Infinity, -Infinity]"
    yield "surrogate", b'{"videos": "\\ud800"}'
    yield "latin1", "vidéo,caption\n".encode("latin-1")
    yield "utf16", '{"videos": []}'.encode("utf-16")
    yield "utf32", '{"videos": []}'.encode("utf-32")
    yield "truncated", b'{"videos": [{"video_id": "video0", '
    yield "string", b'"videos"'
    yield "number", b"3"
    yield "null", b"null"
    yield "list_of_null", b"[null, null]"
    yield "list_of_lists", b"[[1, 2], [3]]"
    yield (
        "yaml_bomb",
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(9)),
    )
    yield "yaml_tag", b"!!python/object/apply:os.system ['true']\n"
    yield "control", b"\x1b[31mred\x07\n"


def annotations() -> Iterator[tuple[str, Any]]:
    """Annotations of nearly the right form; bytes, or what is to be JSON."""
    video = {"video_id": "video0", "split": "train", "category": 0}
    sentence = {"video_id": "video0", "caption": "a man", "sen_id": 0}
    yield "videos_is_object", {"videos": {}, "sentences": []}
    yield "videos_is_string", {"videos": "video0", "sentences": [sentence]}
    yield "video_is_string", {"videos": ["video0"], "sentences": [sentence]}
    yield "sentences_missing", {"videos": [video]}
    yield "sentences_is_null", {"videos": [video], "sentences": None}
    yield "sentence_is_number", {"videos": [video], "sentences": [7]}
    yield "caption_is_list", {"videos": [video], "sentences": [sentence | {"caption": ["a", "b"]}]}
    yield "caption_is_number", {"videos": [video], "sentences": [sentence | {"caption": 5}]}
    yield "caption_is_null", {"videos": [video], "sentences": [sentence | {"caption": None}]}
    yield "id_is_list", {"videos": [video | {"video_id": ["video0"]}], "sentences": [sentence]}
    yield "id_is_null", {"videos": [video | {"video_id": None}], "sentences": [sentence]}
    yield "id_is_object", {"videos": [video | {"video_id": {}}], "sentences": [sentence | {"video_id": {}}]}
    yield "split_is_list", {"videos": [video | {"split": ["train"]}], "sentences": [sentence]}
    yield "unknown_video", {"videos": [video], "sentences": [sentence | {"video_id": "video999"}]}
    yield "csv_without_caption", b"video,split\nvideo0,train\n"
    yield "csv_header_twice", b"video,caption,caption\nvideo0,a man,a dog\n"
    yield "csv_too_many_cells", b"video,caption\nvideo0,a man,is,riding\n"
    yield "csv_open_quote", b'video,caption\nvideo0,"a man\n'
    yield "jsonl_broken_line", b'{"video": "video0", "caption": "a man"}\n{"video": \n'
    yield "jsonl_caption_is_object", b'{"video": "video0", "caption": {"a": 1}}\n'
    yield "jsonl_video_is_list", b'{"video": ["video0"], "caption": "a man"}\n'
    yield "activitynet_times_are_text", {"v_a": {"duration": 10, "timestamps": [["a", "b"]], "sentences": ["x"]}}
    yield "activitynet_start_after_end", {"v_a": {"duration": 10, "timestamps": [[9, 3]], "sentences": ["x"]}}
    yield "activitynet_nan", b'{"v_a": {"duration": 10, "timestamps": [[NaN, 3]], "sentences": ["x"]}}'
    yield "activitynet_lengths_differ", {"v_a": {"duration": 10, "timestamps": [[0, 3]], "sentences": []}}
    yield "didemo_no_times", [{"video": "a.mp4", "description": "x"}]
    yield "duplicate_keys", b'{"videos": [], "videos": [{"video_id": "video0"}], "sentences": []}'


def as_bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file as it says it is: name -> dtype, shape, bytes."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def feature_files(fingerprint: str) -> Iterator[tuple[str, bytes]]:
    """Feature files of one video, 4 frames 16 wide, each wrong in one way."""
    metadata = {"fingerprint": fingerprint}
    good = np.ones((4, 16), np.float16)
    times = np.arange(4, dtype=np.float32)

    def file(features: Any = good, timestamps: Any = times, dtype: str = "F16", **change: Any) -> bytes:
        tensors = {
            "features": (dtype, list(features.shape), features.tobytes()),
            "timestamps": ("F32", list(timestamps.shape), timestamps.astype(np.float32).tobytes()),
        }
        return safetensors({**tensors, **change}, metadata)

    nan, infinite = good.copy(), good.copy()
    nan[2, 3], infinite[1, 1] = np.nan, np.inf
    yield "nan", file(nan)
    yield "infinite", file(infinite)
    yield "one_dimension", file(good[0])
    yield "three_dimensions", file(good[None])
    yield "no_frames", file(good[:0], times[:0])
    yield "no_width", file(good[:, :0])
    yield "timestamps_short", file(timestamps=times[:2])
    yield "timestamps_reversed", file(timestamps=times[::-1].copy())
    yield "timestamps_nan", file(timestamps=np.full(4, np.nan, np.float32))
    yield "timestamps_two_dimensions", file(timestamps=times[:, None])
    yield "bool", file(good.astype(bool), dtype="BOOL")
    yield "integers", file(good.astype(np.int64), dtype="I64")
    yield "header_longer_than_file", struct.pack("<Q", 2**62) + b"{}"
    yield "header_negative", struct.pack("<q", -1) + b"{}"
    yield "header_no_object", struct.pack("<Q", 2) + b"[]"
    yield "no_fingerprint", safetensors({"features": ("F16", [4, 16], good.tobytes())})
    yield "fingerprint_broken", safetensors({"features": ("F16", [4, 16], good.tobytes())}, {"fingerprint": "{"})
    yield "offsets_beyond", safetensors({"features": ("F16", [400, 16], good.tobytes())}, metadata)
    yield "cut", file()[:-40]
    yield "lfs", LFS_POINTER
    yield "html", HTML
    yield "empty", b""


def weight_files() -> Iterator[tuple[str, bytes]]:
    """What may stand in the place of model.safetensors."""
    yield "empty", b""
    yield "garbage", GARBAGE
    yield "lfs", LFS_POINTER
    yield "html", HTML
    yield "no_tensors", safetensors({})
    yield "foreign_tensor", safetensors({"a": ("F32", [1], struct.pack("<f", 1))})
    yield "header_longer_than_file", struct.pack("<Q", 2**62) + b"{}"
    yield "unknown_dtype", safetensors({"a": ("F99", [1], struct.pack("<f", 1))})


def pt_files() -> Iterator[tuple[str, bytes]]:
    """What may stand in the place of a .pt of the ClipCap programs."""
    import pickle

    import torch

    def saved(value: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    yield "empty", b""
    yield "garbage", GARBAGE
    yield "lfs", LFS_POINTER
    yield "html", HTML
    yield "pickle", pickle.dumps({"a": 1})
    yield "zip", b"PK\x05\x06" + bytes(18)
    yield "list", saved([torch.zeros(2)])
    yield "tensor", saved(torch.zeros(2))
    yield "no_tensors", saved({"gpt": "x", "clip_project": None})
    yield "empty_dict", saved({})
    yield "integer_keys", saved({1: torch.zeros(2)})
    yield "sparse", saved({"clip_project.model.0.weight": torch.eye(3).to_sparse()})
    yield (
        "wrong_shapes",
        saved({"gpt.transformer.wte.weight": torch.zeros(3), "clip_project.model.0.weight": torch.zeros(1)}),
    )


def changed_configs(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """config.json of a checkpoint, wrong in one place each."""

    def put(*path: str, to: Any) -> dict[str, Any]:
        changed = json.loads(json.dumps(config))
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to
        return changed

    mapping = ("captioner", "mapping")
    yield "model_unknown", put("model", to="transformer-xl")
    yield "model_is_list", put("model", to=["prefix"])
    yield "captioner_is_list", put("captioner", to=[])
    yield "captioner_is_null", put("captioner", to=None)
    yield "features_is_text", put("features", to="clip")
    yield "features_is_list", put("features", to=[1])
    yield "training_is_list", put("training", to=[1])
    yield "progress_is_text", put("progress", to="x")
    yield "version_unknown", put("version", to=99)
    yield "format_unknown", put("format", to="something")
    for value in (0, -1, 10**9, 10**20, 1.5, "8", None, [8]):
        yield f"feature_dim_{value!r}", put(*mapping, "feature_dim", to=value)
        yield f"num_layers_{value!r}", put(*mapping, "num_layers", to=value)
        yield f"prefix_length_{value!r}", put(*mapping, "prefix_length", to=value)
        yield f"max_frames_{value!r}", put(*mapping, "max_frames", to=value)
        yield f"embedding_dim_{value!r}", put(*mapping, "embedding_dim", to=value)
    yield "mapping_unknown", put(*mapping, "mapping_type", to="magic")
    yield "mapping_field", put(*mapping, "surprise", to=1)
    yield "language_model_is_number", put("captioner", "language_model", to=7)
    yield "language_model_elsewhere", put("captioner", "language_model", to="/nowhere/at/all")


def consensus_files(good: bytes) -> Iterator[tuple[str, bytes]]:
    """consensus.safetensors, wrong in one place each. good: one that is right; b"" for the names alone."""
    from safetensors.torch import load, save

    said: dict[str, Any] = {"ngrams": ["a"], "calibrations": []}
    tensors: dict[str, Any] = {}
    if good:
        said = json.loads(json.loads(good[8 : 8 + struct.unpack("<Q", good[:8])[0]])["__metadata__"]["consensus"])
        tensors = load(good)
    ngrams = said["ngrams"]

    def file(described: Any = said, **changed: Any) -> bytes:
        text = described if isinstance(described, str) else json.dumps(described)
        held = {name: tensor for name, tensor in (tensors | changed).items() if tensor is not None}
        return save(held, {"consensus": text}) if good else b""

    yield from weight_files()
    yield "no_description", safetensors({"a": ("F32", [1], struct.pack("<f", 1))}, {"consensus": "{"})
    yield "description_is_list", file([])
    yield "description_is_null", file("null")
    for name in said:
        if name not in ("unsure_below", "calibrations"):  # which networks of before lack
            yield f"without_{name}", file({key: value for key, value in said.items() if key != name})
    for name in ("hidden_dim", "dropout"):
        for value in (None, "x", -1, 10**20, [3], math.nan):
            yield f"{name}_{value}", file(said | {name: value})
    for value in (None, "high", math.nan, [0.5]):
        yield f"unsure_below_{value}", file(said | {"unsure_below": value})
    calibration = {"caution": 2.0, "slope": 1.0, "intercept": 0.0, "unsure_below": 0.5}
    for name in calibration:
        for value in (None, "x", math.nan, math.inf, []):
            yield f"calibration_{name}_{value}", file(said | {"calibrations": [calibration | {name: value}]})
    yield "calibration_without_caution", file(said | {"calibrations": [{"slope": 1.0}]})
    yield "calibration_unknown_field", file(said | {"calibrations": [calibration | {"x": 1}]})
    yield "calibrations_is_text", file(said | {"calibrations": "none"})
    yield "ngrams_too_few", file(said | {"ngrams": ngrams[:-1]})
    yield "ngrams_too_many", file(said | {"ngrams": [*ngrams, "zebra"]})
    yield "ngrams_twice", file(said | {"ngrams": [ngrams[0], *ngrams[:-1]]})
    yield "ngrams_none", file(said | {"ngrams": []})
    yield "ngrams_are_numbers", file(said | {"ngrams": list(range(len(ngrams)))})
    yield "ngrams_are_text", file(said | {"ngrams": "a"})
    for name in ("mean", "std", "rarity", "unknown", "weight", "lengths", "layers.1.weight", "layers.4.bias"):
        tensor = tensors.get(name)
        if tensor is None:
            wrong = dict.fromkeys(("nan", "missing", "flat", "longer", "empty", "deeper"), None)
        else:
            nan = tensor.clone()
            nan.view(-1)[0] = math.nan
            wrong = {
                "nan": nan,
                "missing": None,
                "flat": tensor.sum().reshape(()),
                "longer": tensor.repeat(2, *[1] * (tensor.dim() - 1)),
            }
            wrong |= {"empty": tensor[:0].contiguous(), "deeper": tensor[None].contiguous()}
        for kind, value in wrong.items():
            if (name, kind) != ("lengths", "longer"):  # captions of more words
                yield f"{name}_{kind}", file(**{name: value})
    yield "foreign_tensor", file(x=tensors["mean"].clone() if good else None)


def predictions() -> Iterator[tuple[str, Any]]:
    """predictions.json, wrong in one place each."""
    one = {
        "video": "video30",
        "captions": [{"text": "a man", "logprob": -1.0, "mean_logprob": -0.5, "tokens": 2, "cut": False}],
    }
    whole = {"version": 1, "model": "m", "split": "test", "decoding": {}, "predictions": [one]}
    yield "predictions_is_object", whole | {"predictions": {}}
    yield "predictions_is_null", whole | {"predictions": None}
    yield "prediction_is_text", whole | {"predictions": ["a man"]}
    yield "captions_empty", whole | {"predictions": [one | {"captions": []}]}
    yield "captions_is_text", whole | {"predictions": [one | {"captions": "a man"}]}
    yield "caption_is_null", whole | {"predictions": [one | {"captions": [None]}]}
    yield "text_is_list", whole | {"predictions": [one | {"captions": [one["captions"][0] | {"text": ["a"]}]}]}
    yield "video_is_list", whole | {"predictions": [one | {"video": [1]}]}
    yield "version_unknown", whole | {"version": 1000}
    yield "timestamps_are_text", whole | {"predictions": [one | {"timestamps": ["x"]}]}
    yield "evidence_is_number", whole | {"predictions": [one | {"evidence": 3}]}
    yield "timestamps_not_a_number", json.dumps(whole | {"predictions": [one | {"timestamps": [math.nan]}]}).encode()
    yield "timestamps_reversed", whole | {"predictions": [one | {"timestamps": [2.0, 1.0]}]}
    yield "start_after_end", whole | {"predictions": [one | {"start": 9.0, "end": 3.0}]}
    yield "start_is_text", whole | {"predictions": [one | {"start": "soon"}]}
    yield "path_is_list", whole | {"predictions": [one | {"path": ["a.mp4"]}]}
    yield (
        "probability_above_one",
        whole | {"predictions": [one | {"captions": [one["captions"][0] | {"probability": 7}]}]},
    )
    yield "support_is_text", whole | {"predictions": [one | {"captions": [one["captions"][0] | {"support": "high"}]}]}
    yield "plain_list_caption", {"video30": ["a man"]}
    yield "plain_number", {"video30": 3}


def fifo(folder: Path) -> Path:
    """A pipe that nobody writes to: who opens it waits for ever."""
    path = folder / "pipe"
    os.mkfifo(path)
    return path


Making = Callable[[Path], Path]
