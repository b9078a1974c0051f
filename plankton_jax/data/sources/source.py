"""Defines a source: labelled images, identified by content, for the records."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.errors import InputError


class Example(NamedTuple):
  """One image on its way into the records, or the reason why it is missing."""

  id: str
  label: int
  image: bytes | None
  reason: str = ''
  texts: Mapping[str, str] = types.MappingProxyType({})  # further fields
  deepest: int = 0  # largest 16-bit value of the image; 0 if it has 8 bits
  note: str = ''  # what the image lost of its file


class Measures(NamedTuple):
  """Measurements that a source has of its objects."""

  names: tuple[str, ...]  # K of them
  ids: tuple[str, ...]  # of N objects
  values: np.ndarray  # float32 [N, K], NaN where unknown

  def of(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Looks up objects by id: [len(ids)] of each name, NaN where unknown."""
    row = {id: i for i, id in enumerate(self.ids)}
    rows = np.array([row.get(id, -1) for id in ids], int)
    return {
      name: np.where(rows < 0, np.nan, self.values[rows, column])
      for column, name in enumerate(self.names)
    }


NO_MEASURES = Measures((), (), np.zeros((0, 0), np.float32))


class Source(NamedTuple):
  """A set of labelled images, not yet encoded."""

  place: str  # for messages
  fingerprint: str
  class_names: tuple[str, ...]
  examples: Callable[[], Iterator[Example]]
  total: int  # of examples
  skipped: tuple[tuple[str, str], ...]  # (name, reason), known beforehand
  # reason -> number of objects left out for it without a name
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  measures: Measures = NO_MEASURES

  @property
  def read(self) -> int:
    """Counts all that was read, kept or not."""
    return self.total + len(self.skipped) + sum(self.left_aside.values())


def describe(error: Exception) -> str:
  """Returns an error's reason alone, for messages that name the file."""
  return getattr(error, 'strerror', None) or str(error)


def one_line(name: object) -> str:
  """Escapes what would tear a line that gives a name: breaks, tabs, controls.

  Surrogates, of names that are not UTF-8, are escaped too.
  """
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def none_readable(
  place: object, skipped: Sequence[tuple[str, str]]
) -> InputError:
  """Builds the error for a source without a readable image."""
  name, reason = skipped[0]
  return InputError(
    f'none of the {len(skipped)} images in {one_line(place)} can be read, '
    f'the first being {one_line(name)}: {reason}'
  )
