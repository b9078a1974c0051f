"""A source: labelled images known by content, on their way to the records."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.errors import InputError


class Example(NamedTuple):
  """One image on its way into the records, or the reason for its lack."""

  id: str
  label: int
  image: bytes | None
  reason: str = ''
  texts: Mapping[str, str] = types.MappingProxyType({})  # further fields
  deepest: int = 0  # largest 16-bit value of the image; 0 if it has 8 bits
  note: str = ''  # what of the file is not in the image


class Measures(NamedTuple):
  """Numbers that a source knows of its objects."""

  names: tuple[str, ...]  # K of them
  ids: tuple[str, ...]  # of N objects
  values: np.ndarray  # float32 [N, K], NaN where it is not known


NO_MEASURES = Measures((), (), np.zeros((0, 0), np.float32))


class Source(NamedTuple):
  """A set of labelled images, not yet encoded."""

  place: str  # for messages
  fingerprint: str
  class_names: tuple[str, ...]
  examples: Callable[[], Iterator[Example]]
  total: int  # of examples
  skipped: tuple[tuple[str, str], ...]  # (name, reason), known beforehand
  # reason -> number of objects that are left out for it and not named
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  measures: Measures = NO_MEASURES

  @property
  def read(self) -> int:
    """Counts all that was read, kept or not."""
    return self.total + len(self.skipped) + sum(self.left_aside.values())


def describe(error: Exception) -> str:
  """Gives an error's reason alone: the file is named beside it."""
  return getattr(error, 'strerror', None) or str(error)


def one_line(name: object) -> str:
  """Escapes what would tear a line that gives a name: breaks, tabs, controls.

  Surrogates, of names that are not UTF-8, are escaped too.
  """
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in str(name))


def none_readable(
  place: object, skipped: Sequence[tuple[str, str]]
) -> InputError:
  """Builds the error for a source whose every image is broken."""
  name, reason = skipped[0]
  return InputError(
    f'none of the {len(skipped)} images in {one_line(place)} can be read, '
    f'the first being {one_line(name)}: {reason}'
  )
