import json
import string
from functools import partial

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from clipcap_video.encoders import huggingface as family
from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference
from tests.tiny_clip import cosine_distance

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 64, "patch_size": 16}
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *string.ascii_lowercase]
TEXT = {**SMALL, "vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def save_made(build, path, std):
    """What `build` makes, a model and its processor, with weights that look at their input, saved with a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = build()
        # As initialised the networks hardly look at their input.
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=std)
    model.eval().save_pretrained(path)
    processor.save_pretrained(path)
    save_tokenizer(path)
    return path, model, processor


def save_tokenizer(path):
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)


def build(kind):
    """A tiny random model and the image processor of its published relatives."""
    if kind == "clip":
        config = CLIPConfig(
            text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=24
        )
        return CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64)
    if kind == "siglip":
        config = SiglipConfig(text_config={**TEXT, "max_position_embeddings": 64}, vision_config=VISION)
        return SiglipModel(config), SiglipImageProcessor(size={"height": 64, "width": 64})
    if kind == "siglip2":
        vision = {**SMALL, "patch_size": 16, "num_patches": 16}
        config = Siglip2Config(text_config={**TEXT, "max_position_embeddings": 64}, vision_config=vision)
        return Siglip2Model(config), Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    config = Dinov2Config(**VISION)
    # 75 - 64 leaves an odd margin, which transformers halves downwards.
    processor = BitImageProcessor(
        size={"shortest_edge": 75},
        crop_size=64,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return Dinov2Model(config), processor


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


def test_an_old_processor_file_with_plain_numbers_is_read(tmp_path):
    model, _ = build("clip")
    model.save_pretrained(tmp_path)
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 64, "resample": 3}
    old |= {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    old |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    recipe = load_encoder(f"hf:{tmp_path}", CPU).pixels
    assert (recipe.resize, recipe.crop, recipe.interpolation) == (64, (64, 64), "bicubic")
    assert recipe.mean == pytest.approx((127.5, 102, 76.5))
    assert recipe.std == pytest.approx((51, 51, 51))


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
