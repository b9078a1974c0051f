"""Ordered work on all cores; image decoding and hashing release the GIL."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm


def in_order(
  function: Callable[[Any], Any],
  items: Sequence[Any],
  *,
  desc: str,
  chunk: int = 64,
) -> Iterator[Any]:
  """Yields function(item) of each item, in order, with a progress bar.

  Only a few chunks are ever in flight, so memory does not grow with `items`.
  """

  def run(start: int) -> list[Any]:
    return [function(item) for item in items[start : start + chunk]]

  workers = os.cpu_count() or 1
  pending = collections.deque()
  starts = iter(range(0, len(items), chunk))
  with (
    concurrent.futures.ThreadPoolExecutor(workers) as pool,
    tqdm(total=len(items), desc=desc, unit=' images', delay=2) as bar,
  ):
    try:
      while True:
        for start in starts:
          pending.append(pool.submit(run, start))
          if len(pending) > 2 * workers:
            break
        if not pending:
          return
        results = pending.popleft().result()
        bar.update(len(results))
        yield from results
    finally:
      for future in pending:  # After an error, or when not read to the end.
        future.cancel()
