import pytest

from plankton_jax import curriculum
from plankton_jax.errors import InputError

STAGES = ((0, 'easy', 'semihard'), (10, 'easy', 'hard'), (25, 'hard', 'hard'))


def test_stage_of_every_epoch():
  found = curriculum.make(STAGES)
  stages = [found.stage_at(epoch) for epoch in range(40)]
  assert stages == [0] * 10 + [1] * 15 + [2] * 15
  assert all(type(stage) is int for stage in stages)
  assert found.policies == (
    ('easy', 'semihard'),
    ('easy', 'hard'),
    ('hard', 'hard'),
  )
  assert found.names()[0] == 'easy+semihard'


def test_no_rows_are_one_stage_without_a_policy():
  found = curriculum.make([])
  assert found.stage_at(0) == found.stage_at(99) == 0
  assert found.policies == ((),)


@pytest.mark.parametrize(
  'rows',
  [
    ((1, 'easy', 'hard'),),
    ((0, 'easy', 'hard'), (0, 'hard', 'hard')),
    ((0, 'easy', 'hard'), (9, 'hard', 'hard'), (5, 'hard', 'hard')),
    ((0, 'easy', 'easy'),),
    ((0, 'semihard', 'hard'),),
    ((0, 'easy'),),
    (0, 'easy', 'hard'),  # the outer brackets are missing
    ('hard',),
    'hard',
    ((0, 'easy', 'hard'), (float('nan'), 'hard', 'hard')),
    ((0, 'easy', 'hard'), (2.5, 'hard', 'hard')),
    ((False, 'easy', 'hard'),),
    ((0, ['easy'], 'hard'),),
  ],
)
def test_bad_rows_are_named(rows):
  with pytest.raises(InputError, match='curriculum'):
    curriculum.make(rows)
