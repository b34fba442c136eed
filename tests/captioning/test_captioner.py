from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.devices import has_fast_bf16


@pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="bf16 products are emulated here")
def test_a_caption_is_the_same_to_the_bit_whatever_it_is_batched_with() -> None:
    captioner = Captioner.from_pretrained(device="cpu")
    assert captioner.precision == "bf16"
    random = np.random.default_rng(0)
    videos = [random.normal(size=(1 + number % 8, 1280)).astype(np.float32) for number in range(5)]
    names = list("abcde")
    together = captioner.caption_features(videos, keys=names)
    alone = [captioner.caption_features([video], keys=[name])[0] for video, name in zip(videos, names, strict=True)]
    assert alone == together


def test_captions_do_not_wait_for_what_they_do_not_need() -> None:
    """CLIP's package, its torchvision and torch's compiler take a second to import."""
    heavy = ("clip", "torchvision", "torch._dynamo", "accelerate", "matplotlib")
    code = f"import sys, clipcap_video.captioning.captioner; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
