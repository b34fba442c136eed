"""Several processes have the gradient of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipcap_video.retrieval.model import (
    RetrievalBatch,
)
from tests.retrieval.test_model import model

WORKER = """
import gc, sys
import torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.retrieval.test_gathering import batch
from tests.retrieval.test_model import model
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
retrieval = torch.nn.parallel.DistributedDataParallel(model({name!r}, max_frames=5))
loss = retrieval(batch(slice(0, 5) if rank == 0 else slice(5, 8)))
loss.backward()
if rank == 0:
    torch.save([loss.detach(), [p.grad for p in retrieval.module.parameters()]], {out!r})
# Torch aborts now and then at exit where a model outlives its process group.
del retrieval, loss
gc.collect()
dist.destroy_process_group()
"""


def batch(rows: slice) -> RetrievalBatch:
    """Eight pairs of differing lengths, two of one video; of those, `rows`, no longer than they need be."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(5) < torch.tensor([5, 2, 3, 1, 4, 2, 3, 1])[:, None]
    frames = torch.randn(8, 5, 12, generator=generator) * mask[..., None]
    text = torch.randn(8, 6, generator=generator)
    longest = int(mask[rows].sum(1).max())
    return RetrievalBatch(
        frames[rows, :longest], mask[rows, :longest], text[rows], torch.tensor([0, 1, 2, 3, 4, 5, 1, 6])[rows]
    )


@pytest.mark.parametrize("name", ["seqTransf", pytest.param("tightTransf", marks=pytest.mark.slow)])
def test_two_processes_have_the_gradient_of_one(tmp_path: Path, name: str) -> None:
    """Batches of five and three pairs in two processes, against one of eight."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(Path(__file__).parents[2]), name=name, out=str(tmp_path / "out.pt")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loss, gradients = torch.load(tmp_path / "out.pt", weights_only=True)
    alone = model(name, max_frames=5)
    expected = alone(batch(slice(0, 8)))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for (key, parameter), gradient in zip(alone.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None, key
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4, msg=key)
        assert name == "tightTransf" or gradient.abs().max() > 0 or "bias" in key, key
