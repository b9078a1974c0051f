"""Which mining policy an epoch uses; plain arithmetic on the host."""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from plankton_jax.errors import InputError
from plankton_jax.mining import NEGATIVES, POSITIVES

Policy = tuple[str, str]  # (positive, negative)
VALIDATION: Policy = ('hard', 'hard')


class Curriculum(NamedTuple):
  """Stages in order; stage i holds from epoch starts[i] on."""

  starts: tuple[int, ...]
  policies: tuple[Policy, ...]

  def stage_at(self, epoch: int) -> int:
    """The stage of an epoch, a Python int: it is static under jit."""
    return bisect.bisect_right(self.starts, epoch) - 1

  def names(self) -> tuple[str, ...]:
    """'easy+semihard', ... for logs and legends."""
    return tuple('+'.join(policy) for policy in self.policies)


def make(stages: Sequence[tuple[int, str, str]]) -> Curriculum:
  """A curriculum from (first epoch, positive, negative) rows.

  No rows at all make one stage without a policy, for objectives that do not
  mine.

  Raises:
    InputError: a row that is no such triple, an unknown policy, or epochs
      that do not start at 0 and rise.
  """
  if not stages:
    return Curriculum((0,), ((),))
  for row in stages:
    if len(row) != 3 or row[1] not in POSITIVES or row[2] not in NEGATIVES:
      raise InputError(
        f'curriculum: {tuple(row)!r} is not (epoch, positive, negative) with'
        f' positive in {POSITIVES} and negative in {NEGATIVES}'
      )
  starts = tuple(row[0] for row in stages)
  if starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
    raise InputError(
      f'curriculum: first epochs {starts} must start at 0 and rise'
    )
  return Curriculum(starts, tuple((row[1], row[2]) for row in stages))
