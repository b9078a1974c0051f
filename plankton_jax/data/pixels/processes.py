"""Ordered work in processes: for Python that holds the GIL."""

import functools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import loky
from loky.process_executor import TerminatedWorkerError

from plankton_jax.data.pixels import ordered, threads
from plankton_jax.errors import InputError

FEWEST = 2000  # items for which starting processes pays
MOST = 128  # items in a part, which cost as much to hand over as one
_WORKERS = 16  # processes that one can feed


def in_order(
  function: Callable[[Any], Any], items: Sequence[Any], *, desc: str
) -> Iterator[Any]:
  """Yields function(item) of each item, in order; see `in_parts`."""
  yield from ordered.one_by_one(in_parts, function, items, desc=desc)


def in_parts(
  function: Callable[[Sequence[Any]], Any], items: Sequence[Any], *, desc: str
) -> Iterator[Any]:
  """Yields function(part) of each part of items, in order, with a progress bar.

  The processes are loky's, which do not run the caller's script again:
  notebooks, and scripts of any form, may call this.

  Args:
    function: is called in processes, which import its module; in threads where
      the items are few. It is pickled once with what it holds, and each process
      opens it once.
    items: any number; memory does not grow with it.
    desc: of the progress bar.

  Raises:
    InputError: a process was ended, from outside or by what it read.
  """
  workers = min(os.cpu_count() or 1, _WORKERS)
  if len(items) < FEWEST or workers == 1:
    yield from threads.in_parts(function, items, desc=desc)
    return
  pickled = pickle.dumps(function)
  pool = loky.get_reusable_executor(workers)
  try:
    yield from ordered.results(
      lambda part: pool.submit(_call, pickled, part),
      items,
      workers=workers,
      most=MOST,
      desc=desc,
    )
  except TerminatedWorkerError as error:
    raise InputError(
      f'{desc}: a process ended in the midst of its images: free some memory'
      ' and start again'
    ) from error


def _call(pickled: bytes, part: Sequence[Any]) -> Any:
  return _opened(pickled)(part)


@functools.lru_cache(maxsize=1)
def _opened(pickled: bytes) -> Callable[[Sequence[Any]], Any]:
  return pickle.loads(pickled)
