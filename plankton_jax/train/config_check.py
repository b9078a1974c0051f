"""Checks a config's numbers and names before any data is read.

Holds the one table of allowed values, which `launch.py --help` shows too.
Whatever depends on the data, or on several fields, is checked where it is used.
"""

import math
from typing import Any, NamedTuple

from plankton_jax.data import splits
from plankton_jax.errors import InputError
from plankton_jax.files.config_file import Config


class Range(NamedTuple):
  """The finite numbers from `low` to `high`, except those left out."""

  low: float
  high: float = math.inf
  whole: bool = False
  without: tuple[float, ...] = ()  # single numbers that are excluded

  def holds(self, value: Any) -> bool:
    """Tells whether a value is such a number; NaN and booleans never are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
      return False
    if self.whole and not isinstance(value, int):
      return False
    inside = math.isfinite(value) and self.low <= value <= self.high
    return inside and value not in self.without

  def __str__(self) -> str:
    """Describes it: 'a whole number from 1', 'a number above 0 below 1'."""
    kind = 'a whole number' if self.whole else 'a number'
    shown = '{:d}' if self.whole else '{:.4g}'
    low = 'above' if self.low in self.without else 'from'
    text = f'{kind} {low} {shown.format(self.low)}'
    if self.high < math.inf:
      high = 'below' if self.high in self.without else 'to'
      text += f' {high} {shown.format(self.high)}'
    inner = [x for x in self.without if self.low < x < self.high]
    return text + ''.join(f', not {shown.format(x)}' for x in inner)


class Choice(NamedTuple):
  """One of a few values."""

  values: tuple[int | str | bool, ...]

  def holds(self, value: Any) -> bool:
    """Tells whether a value is one of them; 1.0 and True are not 1."""
    return any(type(value) is type(x) and value == x for x in self.values)

  def __str__(self) -> str:
    return ' or '.join(map(repr, self.values))


_COUNT = Range(1, whole=True)
_COUNT_OR_OFF = Range(0, whole=True)
_STRENGTH = Range(0)
_POSITIVE = Range(0, without=(0,))
_ANGLE = Range(0, math.pi, without=(math.pi,))
_SHARE = Range(0, 1, without=(0,))

FIELDS: dict[str, Range | Choice] = {
  'seed': Range(0, 2**32 - 1, whole=True),
  'epochs': _COUNT,
  'validations_per_epoch': _COUNT,
  'early_stop_validations': _COUNT_OR_OFF,
  'on_collapse': Choice(('warn', 'stop')),
  'data.per_class': _COUNT,
  'data.size': _COUNT,
  'data.channels': Choice((1, 3)),
  'data.resize': Choice(('pad', 'stretch')),
  'data.on_bad_image': Choice(('skip', 'raise')),
  'data.white': Range(0, 65535, whole=True),
  'data.pixel_um': Range(0),
  'batch.size': Range(2, whole=True),
  # A single class has no negatives, a single image of a class no positive.
  'batch.classes': Range(0, whole=True, without=(1,)),
  'batch.per_class': Range(0, whole=True, without=(1,)),
  'batch.views': _COUNT,
  'batch.chunk': _COUNT_OR_OFF,
  'augment.rotate': _STRENGTH,
  'augment.scale': _STRENGTH,
  'augment.translate': Range(0, 1, without=(1,)),
  'augment.brightness': _STRENGTH,
  'augment.contrast': _STRENGTH,
  'augment.noise': _STRENGTH,
  'encoder.width': _COUNT,
  'encoder.embedding_dim': _COUNT,
  'encoder.poses': Choice((1, 8)),
  'encoder.normalise': Choice(('auto', 'published')),
  'encoder.freeze': _COUNT_OR_OFF,  # the backbone knows how many stages it has
  'encoder.lora_rank': _COUNT_OR_OFF,
  'encoder.lora_alpha': _POSITIVE,
  'encoder.size': Choice((False, True)),
  'encoder.whitening': Range(0, 2),
  'optimizer.learning_rate': Range(0),
  'optimizer.warmup_epochs': Range(0),
  'optimizer.weight_decay': _STRENGTH,
  'optimizer.objective_rate': Range(0),
  'optimizer.encoder_rate': Range(0),
  'optimizer.layer_decay': _SHARE,
}

_PROTOTYPES = {'scale': _POSITIVE, 'sample_prototypes': _SHARE}
OBJECTIVES: dict[str, dict[str, Range | Choice]] = {
  'triplet': {'margin': Range(0)},
  'arcface': {'margin': _ANGLE, **_PROTOTYPES},
  'subcenter_arcface': {'centers': _COUNT, 'margin': _ANGLE, **_PROTOTYPES},
  'cosface': {'margin': Range(0, 2), **_PROTOTYPES},
  'softmax': {**_PROTOTYPES},
  'proxy_anchor': {'margin': Range(0, 1), 'scale': _POSITIVE},
  'supcon': {'temperature': _POSITIVE},
  'multi_similarity': {
    'alpha': _POSITIVE,
    'beta': _POSITIVE,
    'base': Range(-1, 1),
    'epsilon': Range(0),
  },
}


def ranges(config: Config) -> dict[str, Range | Choice]:
  """Lists the allowed values of each field of a config, by its dotted name.

  An unknown objective has no ranges: `objectives.make` reports it.
  """
  objective = config['objective']
  own = OBJECTIVES.get(objective['name'], {}) if 'name' in objective else {}
  return FIELDS | {f'objective.{name}': found for name, found in own.items()}


def check(config: Config) -> None:
  """Checks every number, and the values that name classes.

  Raises:
    InputError: a field is missing or out of range; the message names the
      field, its value and the allowed ones.
  """
  for field, allowed in ranges(config).items():
    value: Any = config
    for part in field.split('.'):
      if part not in value:
        raise InputError(
          f'the config has no field {field}: it must be {allowed}, see'
          ' configs/base.py'
        )
      value = value[part]
    _check_value(field, value, allowed)
  _read_names(config['data'])
  splits.check_fractions(config['data']['fractions'])
  _check_measures(config['encoder']['measures'])


def read_data(data: Config) -> Config:
  """Checks a config's section `data`; reads its fields that name classes.

  Fields that it lacks, as one of another version, are not checked.

  Raises:
    InputError: a field is out of range.
  """
  for field, allowed in FIELDS.items():
    section, _, name = field.rpartition('.')
    if section == 'data' and name in data:
      _check_value(field, data[name], allowed)
  return _read_names(data)


def _read_names(data: Config) -> Config:
  """Checks the crop of a section `data`; reads its fields that name classes."""
  if 'crop' in data:
    _check_crop(data['crop'])
  found = dict(data)
  if 'classes' in data:
    found['classes'] = class_names('data.classes', data['classes'])
  if 'unseen_classes' in data:
    found['unseen_classes'] = unseen_classes(data['unseen_classes'])
  return found


def _check_value(field: str, value: Any, allowed: Range | Choice) -> None:
  if not allowed.holds(value):
    raise InputError(f'{field}={value!r} must be {allowed}')


def _check_crop(value: Any) -> None:
  good = isinstance(value, tuple | list) and len(value) == 4
  if not good or not all(map(_COUNT_OR_OFF.holds, value)):
    raise InputError(
      f'data.crop={value!r} must be four counts of pixels: off the top,'
      ' right, bottom and left'
    )


def _check_measures(value: Any) -> None:
  good = isinstance(value, tuple | list)
  if not good or not all(isinstance(name, str) for name in value):
    hint = f': write ({value!r},)' if isinstance(value, str) else ''
    raise InputError(
      f'encoder.measures={value!r} must be a tuple of names of measures{hint}'
    )


def class_names(field: str, value: Any) -> tuple[str, ...]:
  """Reads a field that names classes; names may be whole numbers.

  Args:
    field: its dotted name.
    value: a tuple or list of names, or of whole numbers that are names; or a
      single name.

  Raises:
    InputError: the value is anything else.
  """
  if isinstance(value, str):
    return (value,) if value else ()
  if isinstance(value, tuple | list):
    is_name = lambda x: isinstance(x, str | int) and not isinstance(x, bool)
    if all(map(is_name, value)):
      return tuple(map(str, value))
  hint = f': write ({value!r},)' if isinstance(value, int) else ''
  raise InputError(f'{field}={value!r} must be a tuple of class names{hint}')


def unseen_classes(value: Any) -> int | tuple[str, ...]:
  """Reads data.unseen_classes: a number is a count, anything else names.

  Raises:
    InputError: the value is neither.
  """
  if isinstance(value, int) and not isinstance(value, bool):
    if value < 0:
      raise InputError(
        f'data.unseen_classes={value} must be a count from 0, or a tuple of'
        ' class names'
      )
    return value
  if value is None:
    raise InputError(
      'data.unseen_classes=None must be a count, 0 for none, or a tuple of'
      ' class names'
    )
  return class_names('data.unseen_classes', value)
