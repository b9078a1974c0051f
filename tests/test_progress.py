import math

import pytest

from plankton_jax import curriculum
from plankton_jax.train import progress
from plankton_jax.train.progress import Measure, Progress

STAGES = curriculum.make(((0, 'easy', 'semihard'), (1, 'hard', 'hard')))


def _schedule(steps=7, validations=3, epochs=2):
  return progress.Schedule(epochs, steps, validations, STAGES)


def test_places_of_two_epochs():
  schedule = _schedule()
  places = [schedule.place(step) for step in range(1, 15)]
  assert [place.step for place in places] == list(range(1, 15))
  assert [place.epoch for place in places] == [0] * 7 + [1] * 7
  assert [place.stage for place in places] == [0] * 7 + [1] * 7
  assert [p.step for p in places if p.validates] == [3, 5, 7, 10, 12, 14]
  assert [p.step for p in places if p.ends_epoch] == [7, 14]
  assert places[0].logged == {'step': 1, 'epoch': 1 / 7, 'stage': 0}
  assert places[-1].passed == 2.0
  assert (schedule.total_steps, schedule.total_validations) == (14, 6)


@pytest.mark.parametrize('steps', [1, 2, 7, 10])
@pytest.mark.parametrize('validations', [1, 2, 3, 5, 20])
def test_validations_are_counted_and_end_each_epoch(steps, validations):
  schedule = _schedule(steps, validations)
  places = [schedule.place(s) for s in range(1, schedule.total_steps + 1)]
  due = [place.step for place in places if place.validates]
  assert len(due) == schedule.total_validations
  assert due[0] == schedule.first_validation
  assert all(place.validates for place in places if place.ends_epoch)


def test_validations_are_counted_in():
  start = Progress()
  first = start.after_validation(Measure('MAP@R', 0.5), 1.0)
  assert first == Progress(best_measure=0.5, best_loss=1.0, without_best=0)
  worse = first.after_validation(Measure('MAP@R', 0.6), 1.0)
  assert worse == Progress(best_measure=0.6, best_loss=1.0, without_best=1)
  assert not worse.stops_early(2) and worse.stops_early(1)
  assert not worse._replace(without_best=99).stops_early(0)
  lower = worse.after_validation(Measure('MAP@R', 0.1), 0.9)
  assert lower == Progress(best_measure=0.6, best_loss=0.9, without_best=0)
  assert start == Progress()  # nothing is changed in place


def test_an_undefined_loss_never_counts_towards_stopping():
  current = Progress()
  for step in range(50):
    current = current.after_validation(Measure('step', float(step)), math.nan)
  assert current == Progress(best_measure=49.0)
  assert not current.stops_early(1)


@pytest.mark.parametrize(
  ('found', 'measure'),
  [
    ({'map_at_r': 0.0, 'accuracy': 0.5, 'loss': 1.0}, ('MAP@R', 0.0)),
    ({'map_at_r': math.nan, 'accuracy': 0.5, 'loss': 1.0}, ('accuracy', 0.5)),
    ({'map_at_r': math.nan, 'loss': 1.0}, ('loss', -1.0)),
    ({'map_at_r': math.nan, 'loss': math.nan}, ('step', 8.0)),
  ],
)
def test_the_measure_is_the_first_that_is_defined(found, measure):
  assert progress.measure_of(found, 8) == measure


def test_progress_of_release_0_1_is_read():
  saved = {
    'best_map': 0.4, 'best_loss': 0.2, 'without_best': 3, 'collapsed': True
  }  # fmt: skip
  assert progress.from_meta(saved) == Progress(0.4, 0.2, 3, True)
  assert 'best_map' in saved
  again = Progress(0.4, 0.2, 3, True)
  assert progress.from_meta(again._asdict()) == again
