"""Work that is done at once, and given back in its order."""

import collections
import concurrent.futures
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
  """Yields what the futures of each part of items list, in order.

  Args:
    submit: begins the work on a part; its future gives a list.
    items: any number; memory does not grow with it.
    size: items in a part.
    in_flight: parts that are begun at once.
    desc: of the progress bar.
  """
  pending = collections.deque()
  starts = iter(range(0, len(items), size))
  with tqdm(total=len(items), desc=desc, unit=' images', delay=2) as bar:
    try:
      while True:
        for start in starts:
          pending.append(submit(items[start : start + size]))
          if len(pending) >= in_flight:
            break
        if not pending:
          return
        found = pending.popleft().result()
        bar.update(len(found))
        yield from found
    finally:
      for future in pending:  # After an error, or when not read to the end.
        future.cancel()


def each(function: Callable[[Any], Any], part: Sequence[Any]) -> list[Any]:
  """What `function` gives for the items of a part."""
  return [function(item) for item in part]
