"""Metrics come back in order, ready ones at once, and the host runs no further
ahead than a few steps."""

import jax.numpy as jnp

from plankton_jax.train import readback
from plankton_jax.train.progress import Place
from plankton_jax.train.readback import InFlight


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


def _put(steps, *, ready):
  flight, losses = InFlight(), []
  for step in range(1, steps + 1):
    losses.append(_Loss(float(step), step in ready))
    flight.put(_place(step), {'loss': losses[-1]})
  return flight, losses


def _taken(flight, **options):
  return [(p.step, x['loss']) for p, x in flight.take(**options)]


def test_only_ready_steps_are_taken_and_in_their_order():
  flight, losses = _put(4, ready={1, 2, 4})
  assert _taken(flight) == [(1, 1.0), (2, 2.0)]
  assert _taken(flight) == []  # step 4 is ready, but step 3 is before it
  losses[2].ready = True
  assert _taken(flight) == [(3, 3.0), (4, 4.0)]
  assert _taken(flight) == []


def test_the_host_waits_where_it_is_too_far_ahead():
  ahead = readback._AHEAD
  flight, _ = _put(ahead, ready=())
  assert _taken(flight) == []
  flight, _ = _put(ahead + 2, ready=())
  assert _taken(flight) == [(1, 1.0), (2, 2.0)]


def test_waiting_takes_all():
  flight, _ = _put(3, ready=())
  assert _taken(flight, wait=True) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_metrics_of_the_device_become_floats():
  flight = InFlight()
  flight.put(_place(1), {'loss': jnp.float32(0.5), 'count': jnp.int32(3)})
  ((place, values),) = flight.take(wait=True)
  assert place == _place(1) and values == {'loss': 0.5, 'count': 3.0}
  assert all(type(x) is float for x in values.values())
