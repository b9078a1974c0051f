"""Tracks how far a run is: each step's place, and its validations so far."""

import math
from typing import Any, NamedTuple

from plankton_jax.curriculum import Curriculum


class Place(NamedTuple):
  """The place of a training step in its run."""

  step: int  # from 1
  epoch: int  # from 0
  passed: float  # epochs, once the step is done
  stage: int  # of the curriculum
  validates: bool  # whether a validation follows
  ends_epoch: bool

  @property
  def logged(self) -> dict[str, Any]:
    """Returns the fields that place a line of the log."""
    return {'step': self.step, 'epoch': self.passed, 'stage': self.stage}


class Schedule(NamedTuple):
  """The steps of a run; plain arithmetic on the host."""

  epochs: int
  steps_per_epoch: int
  validations_per_epoch: int  # evenly spaced, the last at the epoch's end
  curriculum: Curriculum

  @property
  def total_steps(self) -> int:
    return self.epochs * self.steps_per_epoch

  @property
  def total_validations(self) -> int:
    """Counts validations; epochs with few steps validate after each step."""
    each = min(self.validations_per_epoch, self.steps_per_epoch)
    return self.epochs * each

  @property
  def first_validation(self) -> int:
    """Finds the step that is validated first."""
    return -(-self.steps_per_epoch // self.validations_per_epoch)

  def place(self, step: int) -> Place:
    """Finds the place of a step, counted from 1."""
    epoch, position = divmod(step - 1, self.steps_per_epoch)
    due = lambda n: n * self.validations_per_epoch // self.steps_per_epoch
    return Place(
      step=step,
      epoch=epoch,
      passed=step / self.steps_per_epoch,
      stage=self.curriculum.stage_at(epoch),
      validates=due(position + 1) > due(position),
      ends_epoch=position + 1 == self.steps_per_epoch,
    )


class Measure(NamedTuple):
  """The measure of one validation; higher is better."""

  name: str
  value: float


class Progress(NamedTuple):
  """The results of the validations so far; every checkpoint holds them."""

  best_measure: float = -math.inf
  best_loss: float = math.inf
  without_best: int = 0  # validations since the last new minimum of the loss
  collapsed: bool = False  # whether the run has reported a collapse

  def after_validation(self, measure: Measure, loss: float) -> 'Progress':
    """Adds a validation; an undefined (NaN) loss does not count."""
    best_measure = max(measure.value, self.best_measure)
    if math.isnan(loss):
      return self._replace(best_measure=best_measure)
    lower = loss < self.best_loss
    return self._replace(
      best_measure=best_measure,
      best_loss=min(loss, self.best_loss),
      without_best=0 if lower else self.without_best + 1,
    )

  def stops_early(self, patience: int) -> bool:
    """Tells whether so many validations found no new minimum; never for 0."""
    return 0 < patience <= self.without_best


def from_meta(saved: dict[str, Any]) -> Progress:
  """Reads a checkpoint's progress, also one of release 0.1."""
  saved = dict(saved)
  if 'best_map' in saved:
    saved['best_measure'] = saved.pop('best_map')
  return Progress(**saved)


def measure_of(found: dict[str, float], step: int) -> Measure:
  """Picks the first measure of a validation that is defined.

  MAP@R needs two images of a class, accuracy an objective with prototypes.
  Without either the loss counts, and without a loss the newest step is best.
  The choice depends only on the split and the objective, so that a run keeps
  one measure throughout.

  Args:
    found: from `evaluation.evaluate`; NaN is undefined.
    step: the step that was validated.
  """
  candidates = [Measure('MAP@R', found['map_at_r'])]
  if 'accuracy' in found:
    candidates.append(Measure('accuracy', found['accuracy']))
  candidates.append(Measure('loss', -found['loss']))
  for candidate in candidates:
    if not math.isnan(candidate.value):
      return candidate
  return Measure('step', float(step))


def explain_undefined(
  found: dict[str, float], measure: Measure, patience: int
) -> str | None:
  """Says what a validation cannot measure, and what replaces it; None if all.

  Args:
    found: as `measure_of` takes it.
    measure: what it picks.
    patience: as `Progress.stops_early` takes it.
  """
  missing = [
    shown
    for name, shown in (('loss', 'the loss'), ('map_at_r', 'MAP@R'))
    if math.isnan(found[name])
  ]
  if not missing:
    return None
  chosen = {
    'step': 'the newest checkpoint counts as the best',
    'loss': 'the checkpoint with the lowest loss counts as the best',
  }.get(measure.name, f'the checkpoint with the best {measure.name} is kept')
  stops = ''
  if math.isnan(found['loss']) and patience:
    stops = ', and training does not stop early'
  return (
    f'validation does not define {" and ".join(missing)}: too few images of'
    f' each class; {chosen}{stops}. Raise the validation share of'
    ' data.fractions'
  )
