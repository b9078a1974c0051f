"""Ordered work in processes: for Python that holds the GIL."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import loky
from loky.process_executor import TerminatedWorkerError

from plankton_jax.data import ordered, threads
from plankton_jax.errors import InputError

FEWEST = 2000  # items for which starting processes pays
_MOST = 16  # processes that one can feed


def in_order(
  load: Callable[[Any], Any],
  function: Callable[[Any], Any],
  items: Sequence[Any],
  *,
  desc: str,
) -> Iterator[Any]:
  """Yields function(load(item)) of each item, in order, with a progress bar.

  The processes are loky's, which do not run the caller's script again:
  notebooks, and scripts of any form, may call this.

  Args:
    load: is called here; what it returns is pickled.
    function: is called in processes, which import its module; in threads where
      the items are few.
    items: any number; memory does not grow with it.
    desc: of the progress bar.

  Raises:
    InputError: a process was ended, from outside or by what it read.
  """
  workers = min(os.cpu_count() or 1, _MOST)
  if len(items) < FEWEST or workers == 1:
    yield from threads.in_order(
      lambda item: function(load(item)), items, desc=desc
    )
    return
  pool = loky.get_reusable_executor(workers)
  try:
    yield from ordered.results(
      lambda part: pool.submit(
        ordered.each, function, ordered.each(load, part)
      ),
      items,
      size=32,
      in_flight=3 * workers,
      desc=desc,
    )
  except TerminatedWorkerError as error:
    raise InputError(
      f'{desc}: a process ended in the midst of its images: free some memory'
      ' and start again'
    ) from error
