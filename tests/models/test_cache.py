import pytest
import torch
from transformers import DynamicCache

from clipcap_video.models.cache import roomy_cache


@pytest.mark.parametrize("steps", [1, 3])  # room for fewer additions than come, and for all
def test_it_holds_what_the_librarys_own_cache_holds(steps):
    ours, theirs = roomy_cache(2, steps), DynamicCache()
    generator = torch.Generator().manual_seed(0)
    rows = 4
    for added, kept in [(5, None), (3, None), (3, [0, 2, 3]), (3, None), (3, [1])]:
        for layer in range(2):
            new = torch.randn(2, rows, 2, added, 8, generator=generator)
            for mine, other in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if kept is not None:
            rows = len(kept)
            ours.batch_select_indices(torch.tensor(kept))
            theirs.batch_select_indices(torch.tensor(kept))


def test_videos_may_leave_before_the_first_step():
    cache = roomy_cache(1, 2)
    beginning = torch.randn(2, 3, 1, 4, 8)
    cache.update(*beginning, 0)
    cache.batch_select_indices(torch.tensor([2]))
    step = torch.randn(2, 1, 1, 5, 8)
    keys, _ = cache.update(*step, 0)
    assert torch.equal(keys, torch.cat([beginning[0][2:], step[0]], 2))
