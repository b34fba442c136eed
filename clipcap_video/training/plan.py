"""What a training run would take: counted from its data, and measured on a few steps that are thrown away."""

from __future__ import annotations

import contextlib
import io
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clipcap_video.devices import peak_device_memory
from clipcap_video.models.checkpoint import CheckpointInfo, read_config, trained_weights
from clipcap_video.runs.plan import BUDGET_SECONDS, Plan, peak_memory
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import LONGEST_CAPTION
from clipcap_video.training.loop import Run
from clipcap_video.training.run import CaptioningRun, prepare
from clipcap_video.training.validation import validate

FEWEST_STEPS = 3
VALIDATION_VIDEOS = 40


def plan_training(config: TrainConfig) -> Plan:
    """Raises ClipcapError for whatever would stop the run at its beginning; writes nothing."""
    run, resuming = prepare(config)
    data = run.train_data

    def tokens(group: list[list[int]]) -> int:
        return sum(len(tokens) for batch in group for video in batch for tokens in run.order.captions(0, video))

    plan = plan_run(
        run,
        done=steps_done(read_config(config.out_dir / "last")[1]) if resuming else 0,
        warmup=run.warmup,
        weights=[*trained_weights(run.captioner).values(), *run.objective.own_weights().values()],
        size=tokens,
        validation_seconds=_time_validation(run),
    )
    plan.videos = len(data)
    plan.frames = sum(min(run.store.shape(video_id).frames, data.max_frames) for video_id in data.video_ids)
    plan.captions = sum(map(len, data.captions))
    if run.has_validation and config.eval_every:
        plan.notes.append("validations take less than that once the model has learnt to end its captions")
    return plan


def steps_done(info: CheckpointInfo) -> int:
    """Steps that the run of a checkpoint has behind it."""
    return int(info.progress.get("step", 0))


def plan_run(
    run: Run,
    *,
    done: int,
    warmup: int,
    weights: Sequence[Tensor],
    validation_seconds: float,
    size: Callable[[list[list[int]]], int] = len,
) -> Plan:
    """What any run would take from its step `done` on, but for the numbers of its data.

    weights: what a checkpoint holds. validation_seconds: of one, 0 where there is none. size: of a step's batches, by
    which the one is found that takes the most memory.
    """
    config = run.config
    steps = max(0, run.total_steps - done)
    a_step, measured = _time_steps(run, size)
    training = a_step * steps
    notes = []
    if config.max_minutes and training > config.max_minutes * 60:
        training = config.max_minutes * 60
        notes.append(f"--max_minutes ends it after about {training / a_step:,.0f} of its steps")
    epochs = config.epochs * training / (a_step * run.total_steps)
    validations = math.ceil(epochs / config.eval_every) if config.eval_every and run.has_validation else 0
    if not validations:
        notes.append("no validation: the best checkpoint is the last")
    return Plan(
        command=run.command,
        videos=0,
        steps=steps,
        warmup=max(0, warmup - done),
        disk=_bytes_on_disk(run, weights, epochs),
        where=str(config.out_dir),
        memory=peak_memory(),
        device_memory=peak_device_memory(run.accelerator.device),
        seconds=training + validations * validation_seconds,
        measured_on=f"{measured} steps of {a_step:.2g} s and {_validated(validations, validation_seconds)}",
        notes=notes,
    )


def _validated(validations: int, seconds: float) -> str:
    if not validations:
        return "no validation"
    return f"a part of a validation ({validations} of {seconds:.2g} s each)"


def _time_steps(run: Run, size: Callable[[list[list[int]]], int]) -> tuple[float, int]:
    """Mean seconds of a step, over steps drawn from the first epoch, and how many there were."""
    groups = [list(group) for group in run.groups(0)]
    random.Random(0).shuffle(groups)
    run.model.train()
    # Untimed, for the first steps are slow; the memory that the largest needs is what the run needs.
    for group in (max(groups, key=size), groups[0]):
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
    with run.autocast(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        validate(run.captioner, part, run.validation, run.config.bs, LONGEST_CAPTION, run.config.eval_beam_size)
    return (time.perf_counter() - started) / count * len(data)


def _bytes_on_disk(run: Run, weights: Sequence[Tensor], epochs: float) -> int:
    """Checkpoints that stay at the end: best, last and the kept ones; the last with the optimiser's two moments, and
    with the weights of the last step where the checkpoint has their average."""
    size = sum(tensor.numel() for tensor in weights)
    trained = sum(parameter.numel() for parameter in run.bare_model.parameters() if parameter.requires_grad)
    every = run.config.save_every
    kept = 2 + (math.ceil(epochs / every) if every else 0)
    return 4 * (kept * size + (2 if run.average is None else 3) * trained)
