"""What a training run would take: counted from its data, and measured on a few steps that are thrown away."""

from __future__ import annotations

import contextlib
import io
import math
import random
import time
from dataclasses import replace

import torch

from clipcap_video.devices import peak_device_memory
from clipcap_video.models.checkpoint import read_config, trained_weights
from clipcap_video.runs.plan import BUDGET_SECONDS, Plan, peak_memory
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import LONGEST_CAPTION
from clipcap_video.training.run import CaptioningRun, prepare
from clipcap_video.training.validation import validate

FEWEST_STEPS = 3
VALIDATION_VIDEOS = 40


def plan_training(config: TrainConfig) -> Plan:
    """Raises ClipcapError for whatever would stop the run at its beginning; writes nothing."""
    run, resuming = prepare(config)
    data = run.train_data
    done = 0
    if resuming:
        done = int(read_config(config.out_dir / "last")[1].progress.get("step", 0))
    steps = max(0, run.total_steps - done)
    a_step, measured = _time_steps(run)
    a_validation = _time_validation(run)
    training = a_step * steps
    notes = []
    if config.max_minutes and training > config.max_minutes * 60:
        training = config.max_minutes * 60
        notes.append(f"--max_minutes ends it after about {training / a_step:,.0f} of its steps")
    epochs = config.epochs * training / (a_step * run.total_steps)
    validations = math.ceil(epochs / config.eval_every) if config.eval_every and run.validation else 0
    if not validations:
        notes.append("no validation: the best checkpoint is the last")
    return Plan(
        command="train",
        videos=len(data),
        frames=sum(min(run.store.shape(video_id).frames, data.max_frames) for video_id in data.video_ids),
        captions=sum(map(len, data.captions)),
        steps=steps,
        warmup=max(0, run.warmup - done),
        disk=_bytes_on_disk(run, epochs),
        where=str(config.out_dir),
        memory=peak_memory(),
        device_memory=peak_device_memory(run.accelerator.device),
        seconds=training + validations * a_validation,
        measured_on=f"{measured} steps of {a_step:.2g} s and {_validated(run, validations, a_validation)}",
        notes=notes,
    )


def _validated(run: CaptioningRun, validations: int, seconds: float) -> str:
    if not validations:
        return "no validation"
    return f"a part of a validation ({validations} of {seconds:.2g} s each, less once captions end early)"


def _time_steps(run: CaptioningRun) -> tuple[float, int]:
    """Mean seconds of a step, over steps drawn from the first epoch, and how many there were."""
    groups = [list(group) for group in run.groups(0)]
    random.Random(0).shuffle(groups)

    def tokens(group: list[list[int]]) -> int:
        return sum(len(tokens) for batch in group for video in batch for tokens in run.order.captions(0, video))

    run.model.train()
    # Untimed, for the first steps are slow; the memory that the largest needs is what the run needs.
    for group in (max(groups, key=tokens), groups[0]):
        run.rehearse(group)
    times: list[float] = []
    started = time.perf_counter()
    for number in range(max(FEWEST_STEPS, run.total_steps)):
        before = time.perf_counter()
        run.rehearse(groups[number % len(groups)])
        times.append(time.perf_counter() - before)
        if len(times) >= FEWEST_STEPS and time.perf_counter() - started > BUDGET_SECONDS:
            break
    return sum(times) / len(times), len(times)


def _time_validation(run: CaptioningRun) -> float:
    """Seconds of one validation, from a part of the split."""
    if not run.validation or not run.config.eval_every:
        return 0.0
    data = run.eval_data
    count = min(VALIDATION_VIDEOS, len(data))
    part = replace(data, video_ids=data.video_ids[:count], captions=data.captions[:count])
    started = time.perf_counter()
    with run.accelerator.autocast(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        validate(run.captioner, part, run.validation, run.config.bs, LONGEST_CAPTION, run.config.eval_beam_size)
    return (time.perf_counter() - started) / count * len(data)


def _bytes_on_disk(run: CaptioningRun, epochs: float) -> int:
    """Checkpoints that stay at the end: best, last and the kept ones; the last with the optimiser's two moments, and
    with the weights of the last step where the checkpoint has their average."""
    kept_tensors = [*trained_weights(run.captioner).values(), *run.objective.own_weights().values()]
    weights = sum(tensor.numel() for tensor in kept_tensors)
    trained = sum(parameter.numel() for parameter in run.objective.parameters() if parameter.requires_grad)
    every = run.config.save_every
    kept = 2 + (math.ceil(epochs / every) if every else 0)
    return 4 * (kept * weights + (2 if run.average is None else 3) * trained)
