"""Models that look at several frames at once, each against transformers itself, and features of clips of videos."""

import numpy as np
import pytest
import torch
import transformers as hf

from clipcap_video.captioning.pictures import encode_segments
from clipcap_video.encoders import load_encoder
from clipcap_video.features.encode import encode_videos
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import SegmentFrames
from tests.clips import write_clip
from tests.encoder_frames import frame
from tests.encoders.huggingface_models import CPU, TEXT, VISION, save_made, save_tokenizer
from tests.tiny_clip import cosine_distance

CLIP = 4
FRAMES = {**VISION, "num_frames": CLIP}
SQUARE = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}


def videomae():
    return hf.VideoMAEModel(hf.VideoMAEConfig(**FRAMES, use_mean_pooling=False)), hf.VideoMAEImageProcessor(**SQUARE)


def timesformer():
    return hf.TimesformerModel(hf.TimesformerConfig(**FRAMES)), hf.VideoMAEImageProcessor(**SQUARE)


def vivit():
    sizes = {**VISION, "num_frames": CLIP, "tubelet_size": [2, 16, 16]}
    del sizes["patch_size"]
    return hf.VivitModel(hf.VivitConfig(**sizes), add_pooling_layer=False), hf.VivitImageProcessor(**SQUARE)


def xclip():
    text = {**TEXT, "max_position_embeddings": 16}
    sizes = {"mit_hidden_size": 32, "mit_intermediate_size": 64, "mit_num_hidden_layers": 1}
    vision = {**FRAMES, **sizes, "mit_num_attention_heads": 2}
    config = hf.XCLIPConfig(text_config=text, vision_config=vision, projection_dim=32, prompt_layers=1)
    return hf.XCLIPModel(config), hf.VideoMAEImageProcessor(**SQUARE)


def vjepa2():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "crop_size": 64}
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    config = hf.VJEPA2Config(**sizes, **predictor, frames_per_clip=CLIP, tubelet_size=2, mlp_ratio=2)
    return hf.VJEPA2Model(config), hf.VJEPA2VideoProcessor(size={"shortest_edge": 73}, crop_size=64)


FAMILIES = [videomae, timesformer, vivit, xclip, vjepa2]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda build: build.__name__)
def family(request, tmp_path_factory):
    return save_made(request.param, tmp_path_factory.mktemp("clips") / request.param.__name__, 0.1)


def expected_features(model, pixels):
    """From the library's own outputs; pixels: [n, k, 3, S, S]."""
    with torch.inference_mode():
        if isinstance(model, hf.XCLIPModel):
            output = model.get_video_features(pixels)
            return output if isinstance(output, torch.Tensor) else output.pooler_output
        if isinstance(model, hf.VJEPA2Model):
            return model(pixels, skip_predictor=True).last_hidden_state.mean(1)
        hidden = model(pixels).last_hidden_state
    return hidden.mean(1) if isinstance(model, hf.VideoMAEModel) else hidden[:, 0]


def processed(processor, frames):
    videos = [[image.permute(1, 2, 0).numpy() for image in frames]]
    name = "videos" if "video_processor_type" in processor.to_dict() else "images"
    made = processor(**{name: videos}, return_tensors="pt")
    return made["pixel_values_videos"] if "pixel_values_videos" in made else made["pixel_values"]


def test_a_clip_gives_the_feature_that_the_library_gives(family):
    path, model, processor = family
    encoder = load_encoder(f"hf:{path}", CPU)
    assert encoder.frames_per_clip == CLIP
    assert f"clips of {CLIP}" in encoder.preprocessing
    frames = torch.stack([frame("landscape", seed) for seed in range(2 * CLIP)])
    images = encoder.preprocess(frames)
    ours = encoder.encode_images(images)
    theirs = torch.cat([expected_features(model, processed(processor, part)) for part in frames.split(CLIP)])
    assert ours.shape == theirs.shape == (2, encoder.dim)
    assert cosine_distance(ours, theirs) < 1e-4  # pixels differ in their rounding
    same_pixels = expected_features(model, encoder.prepare(images).unflatten(0, (-1, CLIP)))
    torch.testing.assert_close(ours, same_pixels, rtol=1e-3, atol=1e-3)
    # The clips stay apart, and the order of frames matters.
    torch.testing.assert_close(ours[1:], encoder.encode_images(images[CLIP:]), rtol=1e-3, atol=1e-4)
    assert (encoder.encode_images(images[:CLIP].flip(0)) - ours[:1]).norm() > 1e-4


def test_texts_of_an_x_clip_are_the_librarys(tmp_path):
    model, processor = xclip()
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    tokens = hf.AutoTokenizer.from_pretrained(tmp_path)(["a b c"], return_tensors="pt")
    with torch.inference_mode():
        expected = model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    encoder = load_encoder(f"hf:{tmp_path}", CPU)
    torch.testing.assert_close(encoder.encode_text(["a b c", "d"])[:1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 6, 64])
def test_videos_become_features_of_clips(tmp_path, batch_size):
    model, processor = videomae()
    model.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    encoder = load_encoder(f"hf:{tmp_path / 'model'}", CPU)
    counts = {"four": 4, "ten": 10, "one": 1}
    videos = {name: write_clip(tmp_path / f"{name}.mp4", frames=count) for name, count in counts.items()}
    spec = SamplingSpec("uniform", 100)
    found = dict(encode_videos(videos, encoder, spec, batch_size=batch_size))
    assert {name: len(video.features) for name, video in found.items()} == {"four": 1, "ten": 3, "one": 1}

    images, times = frames_of(videos["ten"], spec, encoder)
    filled = torch.cat([images, images[-1:], images[-1:]])  # 10 frames are two clips and a half
    expected = encoder.encode_images(filled)
    np.testing.assert_allclose(found["ten"].features, expected.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["ten"].timestamps, times[[1, 5, 8]])
    held = encode_segments(encoder, [SegmentFrames(0.0, 1.0, times, images)], normalize=False)
    np.testing.assert_allclose(held[0].features, expected.numpy(), rtol=1e-2, atol=1e-2)  # in half precision
    np.testing.assert_allclose(held[0].timestamps, times[[1, 5, 8]])


def frames_of(path, spec, encoder):
    from clipcap_video.video.reader import SampledVideo

    chunks = list(SampledVideo(path, spec, encoder.preprocess))
    return torch.cat([chunk.images for chunk in chunks]), np.concatenate([chunk.timestamps for chunk in chunks])
