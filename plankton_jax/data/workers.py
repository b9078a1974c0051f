"""Works on many items in threads or processes, and yields results in order."""

import concurrent.futures
import functools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import loky
from tqdm import tqdm

from plankton_jax.errors import InputError

FEWEST = 2000  # items for which starting processes pays
PART = 64  # items handed to a worker at once
AHEAD = 4  # parts for each worker in a block; two blocks run at once
_PROCESSES = 16  # the most that one reader can feed


def in_order(
  function: Callable[[Any], Any],
  items: Sequence[Any],
  *,
  desc: str,
  processes: bool = False,
) -> Iterator[Any]:
  """Yields function(item) of each item, in order; see `in_parts`."""
  each = functools.partial(_each, function)
  for found in in_parts(each, items, desc=desc, processes=processes):
    yield from found


def in_parts(
  function: Callable[[Sequence[Any]], Any],
  items: Sequence[Any],
  *,
  desc: str,
  processes: bool = False,
) -> Iterator[Any]:
  """Yields function(part) of each part of `items`, in order.

  Shows a progress bar. Begins only a few parts before they are read, so that
  memory does not grow with the items.

  Args:
    function: takes a slice of `items`. It is pickled, with all it holds, and
      each process unpickles it once.
    items: any number.
    desc: labels the progress bar.
    processes: whether to use processes, for Python that holds the GIL. Threads
      always take few items. The processes are loky's, which do not run the
      caller's script again, so that notebooks and scripts may call this.

  Raises:
    InputError: a process was killed, by a user or for lack of memory.
  """
  workers = os.cpu_count() or 1
  if not processes or workers == 1 or len(items) < FEWEST:
    with concurrent.futures.ThreadPoolExecutor(workers) as threads:
      yield from _map(threads, workers, function, items, desc)
    return
  workers = min(workers, _PROCESSES)
  pool = loky.get_reusable_executor(workers)
  call = functools.partial(_unpickle_and_call, pickle.dumps(function))
  try:
    yield from _map(pool, workers, call, items, desc)
  except BrokenProcessPool as error:
    raise InputError(
      f'{desc}: a process ended before its images were done: free some memory'
      ' and start again'
    ) from error


def _map(
  pool: concurrent.futures.Executor,
  workers: int,
  function: Callable[[Sequence[Any]], Any],
  items: Sequence[Any],
  desc: str,
) -> Iterator[Any]:
  """Maps in blocks, as `Executor.map` alone would begin all parts at once."""
  block = PART * AHEAD * workers
  current: Iterator[tuple[Sequence[Any], Any]] = iter(())
  with tqdm(total=len(items), desc=desc, unit=' images', delay=2) as bar:
    for start in range(0, len(items) + block, block):
      here = items[start : start + block]
      parts = [here[i : i + PART] for i in range(0, len(here), PART)]
      ahead = zip(parts, pool.map(function, parts), strict=True)
      for part, found in current:
        bar.update(len(part))
        yield found
      current = ahead


def _each(function: Callable[[Any], Any], part: Sequence[Any]) -> list[Any]:
  return [function(item) for item in part]


def _unpickle_and_call(pickled: bytes, part: Sequence[Any]) -> Any:
  return _unpickled(pickled)(part)


@functools.lru_cache(maxsize=1)
def _unpickled(pickled: bytes) -> Callable[[Sequence[Any]], Any]:
  return pickle.loads(pickled)
