"""Chooses the mining policy of an epoch; plain arithmetic on the host."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from plankton_jax.errors import InputError
from plankton_jax.mining import NEGATIVES, POSITIVES

# (positive, negative), or () for objectives that do not mine.
Policy = tuple[str, str] | tuple[()]
VALIDATION: Policy = ('hard', 'hard')


class Curriculum(NamedTuple):
  """Stages in order; stage i holds from epoch starts[i] on."""

  starts: tuple[int, ...]
  policies: tuple[Policy, ...]

  def stage_at(self, epoch: int) -> int:
    """Finds an epoch's stage, a Python int: it is static under jit."""
    return bisect.bisect_right(self.starts, epoch) - 1

  def names(self) -> tuple[str, ...]:
    """Names the stages for logs and legends, as in 'easy+semihard'."""
    return tuple('+'.join(policy) for policy in self.policies)


def make(stages: Sequence[tuple[int, str, str]]) -> Curriculum:
  """Makes a curriculum from (first epoch, positive, negative) rows.

  Without rows there is one stage without a policy, for objectives that do not
  mine.

  Raises:
    InputError: a row is not such a triple, a policy is unknown, or the epochs
      do not start at 0 and rise.
  """
  if not stages:
    return Curriculum((0,), ((),))
  if not isinstance(stages, tuple | list):
    raise InputError(f'curriculum={stages!r} must be a tuple of rows')
  for row in stages:
    if not _is_row(row):
      raise InputError(
        f'curriculum: {row!r} is not (epoch, positive, negative) with'
        f' positive in {POSITIVES} and negative in {NEGATIVES}'
      )
  starts = tuple(row[0] for row in stages)
  if starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
    raise InputError(
      f'curriculum: first epochs {starts} must start at 0 and rise'
    )
  return Curriculum(starts, tuple((row[1], row[2]) for row in stages))


def _is_row(row: Any) -> bool:
  if not isinstance(row, tuple | list) or len(row) != 3:
    return False
  epoch, positive, negative = row
  whole = isinstance(epoch, int) and not isinstance(epoch, bool)
  return whole and positive in POSITIVES and negative in NEGATIVES
