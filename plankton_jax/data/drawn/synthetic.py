"""Drawn plankton: labelled crops without a download, for demos and tests."""

import numpy as np

from plankton_jax.data.drawn import animals, cells
from plankton_jax.data.drawn.drawing import photograph
from plankton_jax.errors import InputError

# Class -> what draws it, and its usual body length in px.
_ORGANISMS = {
  'appendicularian': (animals.appendicularian, 80.0),
  'arrow_worm': (animals.arrow_worm, 120.0),
  'chain': (cells.chain, 85.0),
  'copepod': (animals.copepod, 70.0),
  'ctenophore': (animals.ctenophore, 85.0),
  'filament_puff': (cells.filament_puff, 75.0),
  'horned_cell': (cells.horned_cell, 70.0),
  'jellyfish': (animals.jellyfish, 100.0),
  'pluteus': (animals.pluteus, 75.0),
  'round_cell': (cells.round_cell, 70.0),
  'spiny_sphere': (cells.spiny_sphere, 75.0),
  'vase': (cells.vase, 75.0),
}
CLASS_NAMES: tuple[str, ...] = tuple(sorted(_ORGANISMS))


def draw(class_name: str, index: int, *, seed: int) -> np.ndarray:
  """Image `index` of a class, uint8 [H, W] with sides of 30 to 220 px.

  It depends on (class_name, index, seed) alone. Raises InputError for a class
  that is not among `CLASS_NAMES` and for a negative index or seed.
  """
  if class_name not in _ORGANISMS:
    known = ', '.join(CLASS_NAMES)
    raise InputError(f'no drawn class {class_name!r}; choose from {known}')
  if index < 0 or seed < 0:
    raise InputError(f'index {index} and seed {seed} must both be 0 or greater')
  rng = np.random.default_rng((seed, CLASS_NAMES.index(class_name), index))
  organism, length = _ORGANISMS[class_name]
  return photograph(rng, organism(rng), length * rng.lognormal(0.0, 0.25))
