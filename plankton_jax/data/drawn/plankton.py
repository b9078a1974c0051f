"""Draws labelled plankton for demos and tests, without a download."""

import hashlib

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.drawn import animals, microbes
from plankton_jax.data.drawn.drawing import photograph
from plankton_jax.data.pixels import images
from plankton_jax.data.sources.source import Example, Source
from plankton_jax.errors import InputError

# Class -> what draws it, and its usual body length in px.
_ORGANISMS = {
  'appendicularian': (animals.appendicularian, 80.0),
  'arrow_worm': (animals.arrow_worm, 120.0),
  'chain': (microbes.chain, 85.0),
  'copepod': (animals.copepod, 70.0),
  'ctenophore': (animals.ctenophore, 85.0),
  'filament_puff': (microbes.filament_puff, 75.0),
  'horned_cell': (microbes.horned_cell, 70.0),
  'jellyfish': (animals.jellyfish, 100.0),
  'pluteus': (animals.pluteus, 75.0),
  'round_cell': (microbes.round_cell, 70.0),
  'spiny_sphere': (microbes.spiny_sphere, 75.0),
  'vase': (microbes.vase, 75.0),
}
CLASS_NAMES: tuple[str, ...] = tuple(sorted(_ORGANISMS))


def draw(class_name: str, index: int, *, seed: int) -> np.ndarray:
  """Draws image `index` of a class, uint8 [H, W] with sides of 30 to 220 px.

  It depends on (class_name, index, seed) alone.

  Raises:
    InputError: the class is not among `CLASS_NAMES`, or the index or seed is
      negative.
  """
  if class_name not in _ORGANISMS:
    known = ', '.join(CLASS_NAMES)
    raise InputError(f'no drawn class {class_name!r}; choose from {known}')
  if index < 0 or seed < 0:
    raise InputError(f'index {index} and seed {seed} must both be 0 or greater')
  rng = np.random.default_rng((seed, CLASS_NAMES.index(class_name), index))
  organism, length = _ORGANISMS[class_name]
  return photograph(rng, organism(rng), length * rng.lognormal(0.0, 0.25))


def source(per_class: int, seed: int) -> Source:
  """Draws `per_class` images of every class.

  Raises:
    InputError: `per_class` is below one.
  """
  if per_class < 1:
    raise InputError(f'data.per_class must be at least 1, not {per_class}')

  def example(row: int) -> Example:
    label, index = divmod(row, per_class)
    name = CLASS_NAMES[label]
    data = images.encode(draw(name, index, seed=seed))
    return Example(f'{name}/{index:06d}', label, data)

  # Hashing the first of each class is enough: they change with seed and code.
  state = hashlib.blake2b(
    repr((CLASS_NAMES, per_class, seed)).encode(), digest_size=16
  )
  for label in range(len(CLASS_NAMES)):
    state.update(example(label * per_class).image or b'')
  return Source(
    place='the drawn images',
    fingerprint=state.hexdigest(),
    class_names=CLASS_NAMES,
    examples=lambda: workers.in_order(
      example, range(len(CLASS_NAMES) * per_class), desc='draw'
    ),
    total=len(CLASS_NAMES) * per_class,
    skipped=(),
  )
