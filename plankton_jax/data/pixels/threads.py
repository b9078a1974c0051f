"""Ordered work in threads: hashing and reading release the GIL."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from plankton_jax.data.pixels import ordered


def in_order(
  function: Callable[[Any], Any], items: Sequence[Any], *, desc: str
) -> Iterator[Any]:
  """Yields function(item) of each item, in order, with a progress bar."""
  yield from ordered.one_by_one(in_parts, function, items, desc=desc)


def in_parts(
  function: Callable[[Sequence[Any]], Any], items: Sequence[Any], *, desc: str
) -> Iterator[Any]:
  """Yields function(part) of each part of items, in order."""
  workers = os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    yield from ordered.results(
      lambda part: pool.submit(function, part),
      items,
      workers=workers,
      most=64,
      desc=desc,
    )
