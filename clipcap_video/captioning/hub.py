"""Captioners on the Hugging Face Hub, through huggingface_hub's mixin: `save_pretrained`, `push_to_hub`, and back."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelHubMixin

from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import check_replaceable, keep_parts, save_checkpoint, shareable
from clipcap_video.network import try_hub_once

if TYPE_CHECKING:
    from clipcap_video.models.base import CaptionModel
    from clipcap_video.models.checkpoint import CheckpointInfo

CARD = """---
{{ card_data }}
---

# {{ repo_id.split("/")[-1] if repo_id else "A video captioner" }}

A video captioner made with clipcap-video: frames go through a frozen encoder, a mapping network turns their features
into a prefix, and a language model writes the caption.

```python
from clipcap_video import Captioner

captioner = Captioner.from_pretrained("{{ repo_id or "OWNER/NAME" }}")
print(captioner.caption("clip.mp4").text)
```

| | |
| --- | --- |
{% for name, text in facts.items() -%}
| {{ name }} | {{ text }} |
{% endfor %}
**Say here** what it was trained on and under what terms, and where it fails. Captions are guesses: check them before
anything depends on them.
"""


class HubModel(
    ModelHubMixin, library_name="clipcap-video", tags=["video-captioning", "clipcap"], model_card_template=CARD
):
    """What a captioner needs to be saved, pushed and found again. The checkpoint is the one that training writes."""

    model: CaptionModel
    info: CheckpointInfo
    source: Path

    def describe(self) -> dict[str, str]:
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the captioner and a model card to a folder, for `from_pretrained`, people and the Hub.

        Weights are float32 as they are; paths of the machine that trained it stay out. A frozen language model is
        only named, as in every checkpoint. A README.md that is there already stays. options: ModelHubMixin's.
        Raises ClipcapError when the folder holds something else than a checkpoint.
        """
        folder = Path(save_directory)
        check_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Beside its place and then moved there, for what is there has to stay until all is written.
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder.parent) as temporary:
            saved = Path(temporary) / folder.name
            address = super().save_pretrained(saved, **options)
            for part in saved.iterdir():
                target = folder / part.name
                if part.name == "README.md" and target.exists():
                    continue
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(part, target)
        return address

    def _save_pretrained(self, save_directory: Path) -> None:
        kept, info = self.model.config, replace(self.info)
        self.model.config = shareable(kept, info)
        try:
            save_checkpoint(save_directory, self.model, info, extra=keep_parts(self.source))
        finally:
            self.model.config = kept

    def generate_model_card(self, *_: Any, **options: Any) -> ModelCard:
        """The card that `save_pretrained` writes where there is none."""
        facts = {name: text for name, text in self.describe().items() if name != "model"}
        for name, value in self.info.progress.items():
            if name.startswith("val_") and isinstance(value, float):
                facts[f"validation {name.removeprefix('val_')}"] = f"{value if name == 'val_loss' else 100 * value:.2f}"
        return super().generate_model_card(facts=facts, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the captioner with its card; returns the address of the commit. options: of ModelHubMixin."""
        card = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)


def fetch(repository: str, **options: Any) -> Path:
    """The folder of a captioner on the Hub, fetched unless it is in the cache. options: of `snapshot_download`.

    Raises ClipcapError when the Hub cannot be reached and it is not in the cache, or has no such repository.
    """
    from huggingface_hub import errors, snapshot_download

    try_hub_once()
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "tokenizer/*", "language_model/*"]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, **options))
    except errors.GatedRepoError:
        reason = "it is gated; ask for access on its page and log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"it has no revision {options.get('revision')!r}; choose another"
    except errors.RepositoryNotFoundError:
        reason = "the Hub has no such repository, or it is private; check the name, or log in with `hf auth login`"
    except errors.LocalEntryNotFoundError:
        reason = "the Hub cannot be reached and it is not in the cache; go online once, or give a local folder"
    except (errors.HfHubHTTPError, OSError) as error:
        reason = f"the Hub cannot be reached ({type(error).__name__}); go online, or give a local folder"
    raise ClipcapError(f"no captioner at {repository}: there is no such folder, and as a Hub repository: {reason}")


def names_repository(place: str | Path) -> bool:
    """Whether a text that is no path here can be a repository OWNER/NAME of the Hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    # A misspelt path below a folder that is here is a misspelt path.
    if not isinstance(place, str) or place.count("/") != 1 or Path(place).exists() or Path(place).parent.exists():
        return False
    try:
        validate_repo_id(place)
    except HFValidationError:
        return False
    return True
