import pickle
import urllib.error
import warnings

import pytest
import torch

from clipcap_video.encoders import clip as clip_family
from clipcap_video.encoders import load_encoder
from clipcap_video.errors import ClipcapError
from tests.encoder_frames import SIZES, frame, pixel_difference, to_pil
from tests.tiny_clip import EMBED_DIM, cosine_distance, save_tiny_archive, save_tiny_clip, tiny_clip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import clip
    from clip.clip import _transform

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["vit", "resnet"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(kind, tmp_path_factory):
    return load_encoder(str(save_tiny_clip(tmp_path_factory.mktemp("clip") / f"{kind}.pt", kind)), CPU)


@pytest.fixture(scope="module")
def reference(kind):
    return tiny_clip(kind)


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_clips_own_preprocessing_and_model(encoder, reference, size):
    image = frame(size)
    expected_pixels = _transform(64)(to_pil(image))[None]
    pixels = encoder.preprocess(image[None])
    recipe = encoder.pixels
    as_bytes = expected_pixels * torch.tensor(recipe.std).view(3, 1, 1) + torch.tensor(recipe.mean).view(3, 1, 1)
    mean, largest = pixel_difference(pixels, as_bytes)
    assert mean < 0.02
    assert largest < 2.01
    assert cosine_distance(encoder.encode_images(pixels), reference.encode_image(expected_pixels)) < 1e-5


def test_the_frame_matters(encoder):
    features = encoder.encode_images(encoder.preprocess(torch.stack([frame("square", s) for s in range(2)])))
    assert features.shape == (2, EMBED_DIM)
    assert encoder.dim == EMBED_DIM
    assert cosine_distance(features[:1], features[1:]) > 1e-4


def test_text_features_are_the_models(encoder, reference):
    texts = ["a man rides a bike", "two dogs", "word " * 200]
    expected = reference.encode_text(clip.tokenize(texts, truncate=True))
    torch.testing.assert_close(encoder.encode_text(texts), expected, rtol=1e-4, atol=1e-5)


def test_a_frame_has_the_same_features_in_any_batch(encoder):
    frames = encoder.preprocess(torch.stack([frame("landscape", seed) for seed in range(5)]))
    alone = torch.cat([encoder.encode_images(frames[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(encoder.encode_images(frames), alone, rtol=1e-4, atol=1e-5)


def test_bf16_stays_close(encoder, kind, tmp_path):
    half = load_encoder(str(save_tiny_clip(tmp_path / "model.pt", kind)), CPU, "bf16")
    frames = encoder.preprocess(torch.stack([frame("landscape", seed) for seed in range(3)]))
    features = half.encode_images(frames)
    assert features.dtype == torch.float32
    assert 0 < cosine_distance(encoder.encode_images(frames), features) < 1e-3


def test_archive_state_dict_and_prefixed_checkpoint_are_one_encoder(encoder, kind, tmp_path):
    archive = load_encoder(str(save_tiny_archive(tmp_path / "archive.pt", kind)), CPU)
    inner = {f"clip.{key}": value for key, value in tiny_clip(kind).state_dict().items()}
    torch.save({"state_dict": {**inner, "similarity.weight": torch.ones(2)}}, tmp_path / "finetuned.pth")
    finetuned = load_encoder(str(tmp_path / "finetuned.pth"), CPU)
    frames = encoder.preprocess(frame("square")[None])
    for other in (archive, finetuned):
        assert other.weights_digest == encoder.weights_digest
        assert torch.equal(other.encode_images(frames), encoder.encode_images(frames))


def test_the_digest_follows_the_values_not_their_storage(kind, tmp_path):
    state = {key: value.half() for key, value in tiny_clip(kind).state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    torch.save({key: value.float() for key, value in state.items()}, tmp_path / "single.pt")
    half, single = (load_encoder(str(tmp_path / name), CPU) for name in ("half.pt", "single.pt"))
    assert half.weights_digest == single.weights_digest
    state["logit_scale"] = state["logit_scale"] + 1
    torch.save(state, tmp_path / "changed.pt")
    assert load_encoder(str(tmp_path / "changed.pt"), CPU).weights_digest != half.weights_digest


def test_the_network_is_frozen_and_its_features_can_train_another(encoder):
    assert not encoder.network.training
    assert not any(weight.requires_grad for weight in encoder.network.parameters())
    features = encoder.encode_images(encoder.preprocess(frame("square")[None]))
    layer = torch.nn.Linear(encoder.dim, 1)
    layer(features).sum().backward()  # features made in inference mode would be refused here
    torch.testing.assert_close(layer.weight.grad, features)


def test_a_named_model_is_fetched_or_replaced(monkeypatch, tmp_path):
    file = save_tiny_clip(tmp_path / "fetched.pt")
    asked = []
    monkeypatch.setattr(clip_family, "_download", lambda url, root: asked.append(url) or str(file))
    assert load_encoder("ViT-B/32", CPU).name == "ViT-B/32"
    assert len(asked) == 1
    assert asked[0].endswith("/ViT-B-32.pt")
    load_encoder("ViT-B/16", CPU, weights=file)
    assert len(asked) == 1


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("checksum")])
def test_a_failed_download_is_one_sentence(monkeypatch, error):
    def fail(url, root):
        raise error

    monkeypatch.setattr(clip_family, "_download", fail)
    with pytest.raises(ClipcapError, match=r"cannot download CLIP RN50 .*RN50\.pt elsewhere"):
        load_encoder("RN50", CPU)


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("an object was unpickled",))


def test_bad_files_are_refused_and_never_unpickled(tmp_path):
    with pytest.raises(ClipcapError, match=r"no weights at .*missing\.pt"):
        load_encoder(str(tmp_path / "missing.pt"), CPU)
    torch.save({"weight": Exploit()}, tmp_path / "exploit.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Exploit()))
    (tmp_path / "text.pt").write_text("not weights at all")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("exploit.pt", "plain.pt", "text.pt", "empty.pt"):
        with pytest.raises(ClipcapError, match=rf"cannot read the weights .*{name}") as error:
            load_encoder(str(tmp_path / name), CPU)
        assert "\n" not in str(error.value)
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ClipcapError, match="does not hold a CLIP model in OpenAI's format"):
        load_encoder(str(tmp_path / "other.pt"), CPU)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ClipcapError, match="holds no state dict"):
        load_encoder(str(tmp_path / "list.pt"), CPU)
