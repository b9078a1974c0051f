"""Shows a progress bar if tqdm is installed, which training does without."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(total: int, *, name: str, unit: str) -> Iterator[Callable[[int], None]]:
  """Yields `update(count)`; shows the bar after two seconds."""
  try:
    from tqdm import tqdm
  except ImportError:
    yield lambda count: None
    return
  with tqdm(
    total=total, desc=name, unit=unit, delay=2, leave=False
  ) as progress:
    yield progress.update
