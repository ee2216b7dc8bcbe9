"""One thread, fixed seeds, a float64 switch: the same conditions for every test."""

import os
import threading

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from tqdm import tqdm

# A forked copy shares the semaphore of tqdm: killed while it draws a bar, it would never give it
# back, and every later copy would wait for ever.
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Default dtype float64 for the length of one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator; tests draw from it and from nothing else."""
    return torch.Generator().manual_seed(0)
