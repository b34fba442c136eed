"""Captioners on the Hugging Face Hub, through huggingface_hub's mixin: `save_pretrained`, `push_to_hub`, and back."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin

from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import check_replaceable, keep_parts, save_checkpoint, shareable

if TYPE_CHECKING:
    from clipcap_video.models.base import CaptionModel
    from clipcap_video.models.checkpoint import CheckpointInfo

# Of the Hub's own rules: a name, or an owner and a name; no leading or trailing . or -.
_REPOSITORY = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")

CARD = """---
{metadata}
---

# {name}

A video captioner made with clipcap-video: frames go through a frozen encoder, a mapping network turns their features
into a prefix, and a language model writes the caption.

```python
from clipcap_video import Captioner

captioner = Captioner.from_pretrained("{repository}")
print(captioner.caption("clip.mp4").text)
```

| | |
| --- | --- |
{facts}

**Say here** what it was trained on and under what terms, and where it fails. Captions are guesses: check them before
anything depends on them.
"""


class HubModel(ModelHubMixin, library_name="clipcap-video", tags=["video-captioning", "clipcap"]):
    """What a captioner needs to be saved, pushed and found again. The checkpoint is the one that training writes."""

    model: CaptionModel
    info: CheckpointInfo
    source: Path

    def describe(self) -> dict[str, str]:
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: object = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Writes the captioner and a model card to a folder, for `from_pretrained`, people and the Hub.

        Weights are float32 as they are; paths of the machine that trained it stay out. A frozen language model is
        only named, as in every checkpoint. A README.md that is there already stays. config is of no use: the
        checkpoint has its own. The other options are ModelHubMixin's.
        Raises ClipcapError when the folder holds something else than a checkpoint.
        """
        # Not the mixin's own: that removes config.json before it knows that the rest can be saved.
        folder = Path(save_directory)
        check_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_pretrained(folder)
        if not (folder / "README.md").exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(folder / "README.md")
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        # Beside its place and then moved there: the folder may hold a README.md, which is kept.
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=save_directory.parent) as temporary:
            saved = Path(temporary) / "checkpoint"
            kept, info = self.model.config, replace(self.info)
            self.model.config = shareable(kept, info)
            try:
                save_checkpoint(saved, self.model, info, extra=keep_parts(self.source))
            finally:
                self.model.config = kept
            for part in saved.iterdir():
                target = save_directory / part.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(part, target)

    def generate_model_card(self, *_: Any, **options: Any) -> ModelCard:
        """The card that `save_pretrained` writes where there is none."""
        progress = {
            f"validation {name.removeprefix('val_')}": f"{100 * value:.2f}"
            for name, value in self.info.progress.items()
            if name.startswith("val_") and isinstance(value, float)
        }
        facts = {name: text for name, text in self.describe().items() if name != "model"} | progress
        data: ModelCardData = self._hub_mixin_info.model_card_data
        repository = options.get("repo_id", "OWNER/NAME")
        return ModelCard(
            CARD.format(
                metadata=data.to_yaml(),
                name=repository.rpartition("/")[2] if "repo_id" in options else "A video captioner",
                repository=repository,
                facts="\n".join(f"| {name} | {text} |" for name, text in facts.items()),
            )
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the captioner with its card; returns the address of the commit. options: of ModelHubMixin."""
        card = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)


def fetch(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a captioner on the Hub, fetched unless it is in the cache.

    Raises ClipcapError when the Hub cannot be reached and it is not in the cache, or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "tokenizer/*", "language_model/*"],
            )
        )
    except GatedRepoError:
        reason = "it is gated; ask for access on its page and log in with `hf auth login`"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision!r}; choose another"
    except RepositoryNotFoundError:
        reason = "the Hub has no such repository, or it is private; check the name, or log in with `hf auth login`"
    except LocalEntryNotFoundError:
        reason = "the Hub cannot be reached and it is not in the cache; go online once, or give a local folder"
    except (HfHubHTTPError, OSError) as error:
        reason = f"the Hub cannot be reached ({type(error).__name__}); go online, or give a local folder"
    raise ClipcapError(f"no captioner at {repository}: there is no such folder, and as a Hub repository: {reason}")


def names_repository(place: str | Path) -> bool:
    """Whether a text that is no path here can be a repository OWNER/NAME of the Hub."""
    text = str(place)
    return (
        isinstance(place, str)
        and text.count("/") == 1
        and _REPOSITORY.fullmatch(text) is not None
        and not Path(text).exists()
        # A misspelt path below a folder that is here is a misspelt path.
        and not Path(text).parent.exists()
    )
