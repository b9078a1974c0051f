"""Work that is done at once, and given back in its order."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

FEWEST = 16  # items in a part
WAITING = 2  # parts begun at once, for each worker


def results(
  submit: Callable[[Sequence[Any]], concurrent.futures.Future],
  items: Sequence[Any],
  *,
  workers: int,
  most: int,
  desc: str,
) -> Iterator[Any]:
  """Yields the result of each part of items, in order.

  Args:
    submit: begins the work on a part.
    items: any number; memory does not grow with it.
    workers: how many parts are worked on at once.
    most: items in a part, before they grow fewer.
    desc: of the progress bar.
  """
  pending = collections.deque()  # (items, future)
  parts = _parts(len(items), workers, most)
  with tqdm(total=len(items), desc=desc, unit=' images', delay=2) as bar:
    try:
      while True:
        for part in parts:
          pending.append((len(part), submit(items[part.start : part.stop])))
          if len(pending) >= WAITING * workers:
            break
        if not pending:
          return
        count, future = pending.popleft()
        found = future.result()
        bar.update(count)
        yield found
    finally:
      for _, future in pending:  # After an error, or when not read to the end.
        future.cancel()


def _parts(count: int, workers: int, most: int) -> Iterator[range]:
  """Rows of each part, fewer towards the end, so that all end together.

  Polychronopoulos and Kuck 1987, guided self-scheduling,
  doi:10.1109/TC.1987.5009495.
  """
  start = 0
  while start < count:
    size = (count - start) // (2 * workers)
    stop = min(start + max(FEWEST, min(size, most)), count)
    yield range(start, stop)
    start = stop


def one_by_one(
  in_parts: Callable[..., Iterator[list[Any]]],
  function: Callable[[Any], Any],
  items: Sequence[Any],
  *,
  desc: str,
) -> Iterator[Any]:
  """Yields function(item) of each item, by an `in_parts` of their parts."""
  of_part = functools.partial(_each, function)
  for found in in_parts(of_part, items, desc=desc):
    yield from found


def _each(function: Callable[[Any], Any], part: Sequence[Any]) -> list[Any]:
  return [function(item) for item in part]
