"""Work that is done at once, and given back in its order."""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm


def results(
  submit: Callable[[Sequence[Any]], concurrent.futures.Future],
  items: Sequence[Any],
  *,
  size: int,
  in_flight: int,
  desc: str,
) -> Iterator[Any]:
  """Yields the result of each part of items, in order.

  Args:
    submit: begins the work on a part.
    items: any number; memory does not grow with it.
    size: items in a part.
    in_flight: parts that are begun at once.
    desc: of the progress bar.
  """
  pending = collections.deque()  # (items, future)
  starts = iter(range(0, len(items), size))
  with tqdm(total=len(items), desc=desc, unit=' images', delay=2) as bar:
    try:
      while True:
        for start in starts:
          part = items[start : start + size]
          pending.append((len(part), submit(part)))
          if len(pending) >= in_flight:
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
