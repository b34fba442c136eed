from functools import partial

import pytest
import torch
import transformers

from clipcap_video.encoders import huggingface as family
from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference
from tests.encoders.huggingface_models import CPU, WORDS, build, save_made
from tests.tiny_clip import cosine_distance


@pytest.fixture(scope="module", params=["clip", "siglip", "dinov2", "siglip2"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def saved(kind, tmp_path_factory):
    return save_made(partial(build, kind), tmp_path_factory.mktemp(kind), 0.2)


@pytest.fixture(scope="module")
def encoder(saved):
    return load_encoder(f"hf:{saved[0]}", CPU)


def reference_features(model, **inputs):
    with torch.inference_mode():
        output = getattr(model, "get_image_features", model)(**inputs)
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@pytest.mark.parametrize("size", SIZES)
def test_pixels_and_features_are_those_of_the_models_own_processor(encoder, saved, kind, size):
    image = frame(size)
    expected = saved[2](image, return_tensors="pt")
    pixels = encoder.preprocess(image[None])
    assert pixels.shape == ((1, 3, 17, 256) if kind == "siglip2" else (1, 3, 64, 64))
    if kind != "siglip2":
        recipe = encoder.pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
        average, largest = pixel_difference(pixels, expected["pixel_values"] * std + mean)
        assert average < 0.01
        assert largest < 1.01
    features = encoder.encode_images(pixels)
    assert features.shape == (1, encoder.dim)
    assert cosine_distance(features, reference_features(saved[1], **expected)) < 1e-4


def test_the_frame_matters_and_its_batch_does_not(encoder):
    images = encoder.preprocess(torch.stack([frame("landscape", seed) for seed in range(3)]))
    together = encoder.encode_images(images)
    alone = torch.cat([encoder.encode_images(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert cosine_distance(together[:1], together[1:2]) > 1e-3


def test_frames_of_different_shapes_share_a_batch(encoder, kind):
    images = torch.cat([encoder.preprocess(frame(size)[None]) for size in (*SIZES, "landscape")])
    alone = torch.cat([encoder.encode_images(image[None]) for image in images])
    torch.testing.assert_close(encoder.encode_images(images), alone, rtol=1e-3, atol=1e-3)
    if kind == "siglip2":
        assert "at most 16 patches of 16x16" in encoder.preprocessing


def test_bf16_stays_close(encoder, saved):
    half = load_encoder(f"hf:{saved[0]}", CPU, "bf16")
    images = encoder.preprocess(frame("landscape")[None])
    assert half.weights_digest == encoder.weights_digest
    assert 0 < cosine_distance(half.encode_images(images), encoder.encode_images(images)) < 1e-2


def test_text_features_are_the_models(encoder, saved, kind):
    texts = ["a b c", "d", "e f g h i j k l m n o p q r s t u v w x y z"]
    if kind == "dinov2":
        with pytest.raises(ClipcapError, match="no text side"):
            encoder.encode_text(texts)
        return
    length = 16 if kind == "clip" else 64
    ids = [[WORDS.index(word) for word in text.split()][:length] for text in texts]
    model = saved[1]
    if kind == "siglip2":  # transformers gives it a tokenizer class of its own, which pads on the left
        tokenizer = transformers.AutoTokenizer.from_pretrained(saved[0])
        ids = tokenizer(texts, padding="max_length", max_length=64)["input_ids"]
    with torch.inference_mode():
        if kind == "clip":  # one by one, so without padding
            outputs = [model.get_text_features(torch.tensor([row])) for row in ids]
        else:  # SigLIP sees 64 tokens, padding included
            outputs = [model.get_text_features(torch.tensor([row + [0] * (64 - len(row))])) for row in ids]
    expected = [row if isinstance(row, torch.Tensor) else row.pooler_output for row in outputs]
    torch.testing.assert_close(encoder.encode_text(texts), torch.cat(expected), rtol=1e-3, atol=1e-4)


def test_loading_is_silent_and_leaves_the_verbosity(saved, capfd):
    verbosity = transformers.logging.get_verbosity()
    load_encoder(f"hf:{saved[0]}", CPU)
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == verbosity


def test_problems_are_one_sentence(tmp_path, monkeypatch):
    def offline(source, local_files_only=False, **options):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your connection.")

    with monkeypatch.context() as patch:
        patch.setattr(family.AutoConfig, "from_pretrained", offline)
        with pytest.raises(ClipcapError, match="couldn't connect") as error:
            load_encoder("hf:someone/something", CPU)
    assert "\n" not in str(error.value)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ClipcapError, match=r"cannot load hf:.*bare"):
        load_encoder(f"hf:{tmp_path / 'bare'}", CPU)
    with pytest.raises(ClipcapError, match=r"no model folder at .*absent"):
        load_encoder(f"hf:{tmp_path / 'absent'}", CPU)
    transformers.GPT2Config(n_layer=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ClipcapError, match="model of type gpt2, which has no image side"):
        load_encoder(f"hf:{tmp_path / 'gpt2'}", CPU)
    with pytest.raises(ClipcapError, match="give their folder as hf:PATH"):
        load_encoder("hf:name", CPU, weights=tmp_path)


def test_a_checkpoint_without_all_weights_is_refused(tmp_path):
    model, processor = build("dinov2")
    state = {key: value for key, value in model.state_dict().items() if key != "layernorm.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ClipcapError, match=r"lacks weights of its model: layernorm\.weight"):
        load_encoder(f"hf:{tmp_path}", CPU)
