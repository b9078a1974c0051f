"""Reads the metrics of training steps back from the device, without stalls."""

import collections
from typing import Any

import jax

from plankton_jax.train.progress import Place

_AHEAD = 4  # steps dispatched ahead of the oldest one not yet read

Step = tuple[Place, dict[str, float]]


class InFlight:
  """The metrics of steps that the device may still be computing.

  They are read once they are ready. The host waits only when it is several
  steps ahead of the device, so that dispatched steps do not pile up.
  """

  def __init__(self) -> None:
    self._steps: collections.deque[tuple[Place, Any]] = collections.deque()

  def put(self, place: Place, metrics: dict[str, jax.Array]) -> None:
    """Adds the step that was dispatched last."""
    self._steps.append((place, metrics))

  def take(self, *, wait: bool = False) -> list[Step]:
    """Removes and returns the steps that are ready, the oldest first.

    Args:
      wait: whether to wait for all of them.
    """
    taken = []
    while self._steps and (
      wait or len(self._steps) > _AHEAD or self._steps[0][1]['loss'].is_ready()
    ):
      place, metrics = self._steps.popleft()
      values = jax.device_get(metrics)
      taken.append((place, {name: float(x) for name, x in values.items()}))
    return taken
