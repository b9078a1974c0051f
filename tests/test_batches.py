import collections
import os
import tempfile
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax.train import batches, sharding
from plankton_jax.train.progress import Place

ROWS = np.array([7, 2, 5, 11, 3, 8])


@pytest.fixture
def mapped(tmp_path):
  """Images as the cache has them, with their labels."""
  rng = np.random.default_rng(0)
  np.save(
    tmp_path / 'images.npy', rng.integers(0, 256, (12, 4, 4, 1), np.uint8)
  )
  labels = np.arange(12, dtype=np.int32) * 10
  images = np.load(tmp_path / 'images.npy', mmap_mode='r')
  return {'image': images, 'label': labels}


def _plan(step):
  return np.random.default_rng(step).permutation(len(ROWS))[:3]


@pytest.mark.parametrize('measured', [True, False])
@pytest.mark.parametrize('kept', [True, False])
def test_every_step_gets_its_rows(mapped, kept, measured, monkeypatch):
  asked = []
  monkeypatch.setattr(
    sharding, 'fits_on_device', lambda size: asked.append(size) or kept
  )
  steps = range(3, 10)
  measures = np.arange(36, dtype=np.float32).reshape(12, 3)
  measures[5] = np.nan
  columns = mapped | ({'measures': measures} if measured else {})
  stream = batches.training(columns, ROWS, _plan, steps, None)
  for step, batch in zip(steps, stream, strict=True):
    rows = ROWS[_plan(step)]
    np.testing.assert_array_equal(batch['image'], mapped['image'][rows])
    np.testing.assert_array_equal(batch['label'], mapped['label'][rows])
    np.testing.assert_array_equal(batch['valid'], True)
    assert ('measures' in batch) == measured
    if measured:
      np.testing.assert_array_equal(batch['measures'], measures[rows])
    assert (batch['image'].dtype, batch['label'].dtype) == (np.uint8, np.int32)
  assert asked == [len(ROWS) * 16]


def test_what_is_kept_is_not_read_again(mapped):
  columns = {name: np.array(x) for name, x in mapped.items()}
  batch = batches.resident(columns, ROWS, None)
  expected = mapped['image'][ROWS[[4, 0]]]
  for column in columns.values():
    column[:] = 0
  taken = batch(np.array([4, 0]))
  np.testing.assert_array_equal(taken['image'], expected)
  np.testing.assert_array_equal(taken['label'], 10 * ROWS[[4, 0]])


@pytest.mark.skipif(not hasattr(os, 'posix_fadvise'), reason='Linux has it')
def test_the_disk_is_asked_for_all_rows_before_one_is_read(mapped, monkeypatch):
  path, asked = mapped['image'].filename, []

  def advise(file, offset, size, advice):
    assert advice == os.POSIX_FADV_WILLNEED
    asked.append(os.pread(file, size, offset))

  monkeypatch.setattr(os, 'posix_fadvise', advise)
  at = np.array([4, 0])
  images = batches.streamed(mapped, ROWS, None)(at)['image']
  assert asked == [image.tobytes() for image in mapped['image'][ROWS[at]]]
  os.remove(path)  # What is mapped stays.
  again = batches.streamed(mapped, ROWS, None)(at)['image']
  np.testing.assert_array_equal(again, images)
  with tempfile.TemporaryFile() as file:  # nor has every file a name
    unnamed = np.memmap(file, np.uint8, 'w+', shape=mapped['image'].shape)
    unnamed[:] = mapped['image']
    taken = batches.streamed(mapped | {'image': unnamed}, ROWS, None)(at)
  np.testing.assert_array_equal(taken['image'], images)


def test_batches_are_made_ahead_of_the_loop(mapped):
  third = threading.Event()

  def plan(step):
    if step == 2:
      third.set()
    return _plan(step)

  stream = batches.training(mapped, ROWS, plan, range(9), None)
  next(stream)
  assert third.wait(60)


def test_a_failure_in_the_thread_reaches_the_loop(mapped):
  def broken(step):
    raise OSError('the disk is gone')

  stream = batches.training(mapped, ROWS, broken, range(2), None)
  with pytest.raises(OSError, match='the disk is gone'):
    next(stream)


@pytest.mark.parametrize(
  ('processes', 'fits', 'chosen'),
  [(1, True, 'resident'), (1, False, 'streamed'), (2, True, 'streamed')],
)
def test_images_stay_on_the_device_of_one_process_if_they_fit(
  processes, fits, chosen, mapped, monkeypatch
):
  made = []
  monkeypatch.setattr(batches.jax, 'process_count', lambda: processes)
  monkeypatch.setattr(sharding, 'fits_on_device', lambda size: fits)
  for name in ('resident', 'streamed'):

    def make(*given, name=name):
      made.append(name)
      return lambda at: {}

    monkeypatch.setattr(batches, name, make)
  assert list(batches.training(mapped, ROWS, _plan, range(2), None)) == [{}] * 2
  assert made == [chosen]


class _Loss:
  """A metric of a step that the device has or has not finished."""

  def __init__(self, value, ready):
    self.value, self.ready = value, ready

  def is_ready(self):
    return self.ready

  def __array__(self, dtype=None, copy=None):
    return jnp.float32(self.value).__array__()


def _place(step):
  return Place(step, 0, step / 9, 0, validates=False, ends_epoch=False)


def _dispatched(steps, *, ready):
  return collections.deque(
    (_place(step), {'loss': _Loss(float(step), step in ready)})
    for step in range(1, steps + 1)
  )


def _read(dispatched, *, wait=False):
  found = batches.read_back(dispatched, wait=wait)
  return [(place.step, values['loss']) for place, values in found]


def test_only_ready_steps_are_read_and_in_their_order():
  steps = _dispatched(4, ready={1, 2, 4})
  third = steps[2][1]['loss']
  assert _read(steps) == [(1, 1.0), (2, 2.0)]
  assert _read(steps) == []  # step 4 is ready, but step 3 is before it
  third.ready = True
  assert _read(steps) == [(3, 3.0), (4, 4.0)]
  assert _read(steps) == [] and not steps


def test_the_host_waits_where_it_is_too_far_ahead():
  ahead = batches._IN_FLIGHT
  assert _read(_dispatched(ahead, ready=())) == []
  assert _read(_dispatched(ahead + 2, ready=())) == [(1, 1.0), (2, 2.0)]


def test_waiting_reads_all():
  steps = _dispatched(3, ready=())
  assert _read(steps, wait=True) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_metrics_of_the_device_become_floats():
  metrics = {'loss': jnp.float32(0.5), 'count': jnp.int32(3)}
  steps = collections.deque([(_place(1), metrics)])
  ((place, values),) = batches.read_back(steps, wait=True)
  assert place == _place(1) and values == {'loss': 0.5, 'count': 3.0}
  assert all(type(x) is float for x in values.values())
