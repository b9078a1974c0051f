"""Rows to batches on the device, one step ahead of their use."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]

_AHEAD = 2  # batches; the gather takes a fraction of a step


def gather(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Batch:
  """The batch of these rows: image [B, H, W, C], label [B], valid [B]."""
  return {
    'image': images[rows],
    'label': labels[rows],
    'valid': np.ones(len(rows), bool),
  }


def training(
  images: np.ndarray,
  labels: np.ndarray,
  sampler: Callable[[int], np.ndarray],
  steps: range,
  put: Callable[[Batch], Any],
) -> Iterator[Any]:
  """Yields the batch of every step, gathered and put ahead in a thread."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pending = collections.deque()
    for step in steps:
      pending.append(
        pool.submit(lambda s: put(gather(images, labels, sampler(s))), step)
      )
      if len(pending) > _AHEAD:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()


def evaluation(
  images: np.ndarray, labels: np.ndarray, rows: np.ndarray, size: int
) -> Iterator[Batch]:
  """Yields all rows in batches of one size; `valid` is False on padding."""
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    padding = size - len(part)
    batch = gather(images, labels, np.pad(part, (0, padding), mode='edge'))
    batch['valid'][len(part) :] = False
    yield batch
