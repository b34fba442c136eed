import subprocess
import sys

import pytest
import torch

from clipcap_video.encoders import FAMILIES, load_encoder, names_of
from clipcap_video.errors import ClipcapError

CPU = torch.device("cpu")


def test_known_encoders_need_neither_torch_nor_a_network_library():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('clipcap_video'); package.__path__ = ['clipcap_video']\n"
        "sys.modules['clipcap_video'] = package\n"  # whatever the package itself imports
        "from clipcap_video.encoders import FAMILIES, names_of\n"
        "names_of(FAMILIES)\n"
        "print([name for name in ('torch', 'transformers', 'clip', 'torchvision') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_clip_package_is_imported_without_a_warning():
    code = "import clipcap_video.encoders.clip"
    ran = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert "pkg_resources" not in ran.stderr


def test_every_published_clip_is_known():
    import clip

    assert set(clip.available_models()) <= set(names_of(FAMILIES))


def test_every_torchvision_name_has_its_parts():
    from torchvision.models import get_model

    from clipcap_video.encoders.torchvision import CLASSIFIER, STAGES, STEM

    names = [name for name in names_of(FAMILIES) if name.startswith("resnet")]
    assert len(names) == 5
    with torch.device("meta"):
        for name in names:
            assert {STEM, CLASSIFIER, *STAGES} <= set(dict(get_model(name).named_children()))


@pytest.mark.parametrize("name", ["ViT-B/64", "vit", "", "hf:", "resnet51", "efficientnet-lite5"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ClipcapError, match=r"unknown encoder .*ViT-B/32.*hf:NAME_OR_PATH.*resnet50") as error:
        load_encoder(name, CPU)
    assert "\n" not in str(error.value)
