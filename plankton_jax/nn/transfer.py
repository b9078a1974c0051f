"""Starts encoders from an encoder of this project, exported or bundled."""

from collections.abc import Iterable
from typing import Any

import flax.traverse_util
import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.files import config_file, encoder_folder
from plankton_jax.files.config_file import Config
from plankton_jax.nn import encoders, lora
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.whitening import WHITENING

_FIELD = 'encoder.pretrained'
# Weights fit a network of the same fields, and images of the same size.
_MUST_AGREE = ('encoder.name', 'encoder.width', 'encoder.stem', 'data.size')
# Red, green and blue in a grey value (ITU-R 601-2), as images become grey.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

_Flat = dict[tuple[str, ...], np.ndarray]


def check(config: Config) -> None:
  """Compares a config with the encoder that it begins from, if it is one.

  Does nothing where the encoder is gone: a run resumes without it.

  Raises:
    InputError: a field of the network, or the size of images, differs.
  """
  name = config['encoder']['pretrained']
  folder = encoder_folder.find(name) if name else None
  if folder is None:
    return
  theirs = encoder_folder.read(folder)['config']
  wrong = [
    f'{field}={_value(theirs, field)!r}, not {_value(config, field)!r}'
    for field in _MUST_AGREE
    if _value(theirs, field) != _value(config, field)
  ]
  names = [list(c['encoder'].get('measures', ())) for c in (theirs, config)]
  if len(names[0]) == len(names[1]) and names[0] != names[1]:
    # Arrays of as many measures fit, but they would be of others.
    wrong.append(f'encoder.measures={names[0]!r}, not {names[1]!r}')
  if wrong:
    raise InputError(
      f'{_FIELD}={name} takes {", ".join(wrong)}; configs/finetune.py sets them'
      ' for plankton'
    )


def begin(
  variables: dict[str, Any], *, backbone: Backbone, name: str
) -> dict[str, Any]:
  """Replaces fresh variables by those of an encoder, as far as they fit.

  All of the backbone is taken over, and each module of the head whose arrays
  have the shapes that are asked for: with another `embedding_dim` the head
  begins at random. The whitening is not: it is of a space that training moves.
  Between grey and colour images the first kernel is changed so that the
  features of a grey image stay as they are. Adapters begin as drawn.

  Args:
    variables: the encoder's fresh `params` and `batch_stats`.
    backbone: the encoder's.
    name: of a bundled encoder, or of a folder.

  Raises:
    InputError: there is no such encoder, its backbone is another, or it takes
      images that are normalised otherwise.
  """
  folder = encoder_folder.need(name, _FIELD)
  found = encoder_folder.read(folder)
  before = config_file.build(encoders.make, found['config'], 'encoder')
  if before.backbone.normalise != backbone.normalise:
    began, remedy = 'random weights', 'auto'
    if before.backbone.normalise is not None:
      began, remedy = 'published weights', 'published'
    raise InputError(
      f'{_FIELD}={name} began from {began}, for which its images were'
      f' normalised: set encoder.normalise={remedy!r}'
    )
  theirs = flax.traverse_util.flatten_dict(
    {'params': found['params']['encoder'], 'batch_stats': found['batch_stats']}
  )
  ours: _Flat = flax.traverse_util.flatten_dict(dict(variables))
  body = {module for stage in backbone.stages for module in stage}
  first = backbone.stages[0][0]  # the layer that is given the image
  taken: _Flat = {}
  for path, array in theirs.items():
    if path[1] == WHITENING:
      continue
    if path[1] == first and path in ours and array.ndim == 4:
      array = _for_channels(array, ours[path].shape[-2])
    if path in ours and array.shape == ours[path].shape:
      taken[path] = array
    elif path[1] in body:
      raise _misfit(name, path, array, ours.get(path))
  begins = {path: x for path, x in ours.items() if not lora.is_adapter(path)}
  for path, fresh in begins.items():
    if path[1] in body and path not in theirs:
      raise _misfit(name, path, None, fresh)
  partly = {path[1] for path in begins.keys() - taken.keys()}
  kept = {path: x for path, x in taken.items() if path[1] not in partly}
  begun = flax.traverse_util.unflatten_dict({**ours, **kept})
  return {'batch_stats': {}, **begun}


def seen_classes(name: str) -> frozenset[str]:
  """Lists the classes that an encoder was trained on, and those before it.

  An encoder that began from another has seen what that one saw, as far as it
  can still be found. Empty if `name` is no encoder of this project.
  """
  folder = encoder_folder.find(name) if name else None
  if folder is None:
    return frozenset()
  found = encoder_folder.read(folder)
  before = found['config']['encoder'].get('pretrained', '')
  earlier = frozenset() if before == name else seen_classes(before)
  return earlier | frozenset(found['class_names'])


def common(seen: Iterable[str], names: Iterable[str]) -> list[str]:
  """Lists those of `names` that are among the seen classes, sorted.

  Compares the last folder of a name, in lower case: sets of images are sorted
  into different trees.
  """
  last = lambda name: name.rpartition('/')[2].casefold()
  known = {last(name) for name in seen}
  return sorted(name for name in names if last(name) in known)


def _value(config: Config, field: str) -> Any:
  section, _, name = field.partition('.')
  return config[section].get(name)


def _for_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
  """Changes a kernel [h, w, C, F] to as many channels, 1 or 3.

  For colour, a grey kernel is shared out as red, green and blue make grey; for
  grey images the three of a colour kernel are summed.
  """
  change = kernel.shape[-2], channels
  if change == (1, 3):
    return kernel * _LUMA[:, None]
  return kernel.sum(axis=-2, keepdims=True) if change == (3, 1) else kernel


def _misfit(
  name: str,
  path: tuple[str, ...],
  theirs: np.ndarray | None,
  ours: np.ndarray | None,
) -> InputError:
  shown = lambda array: 'missing' if array is None else array.shape
  return InputError(
    f'{_FIELD}={name}: {"/".join(path)} is {shown(theirs)} there,'
    f' {shown(ours)} here: another network'
  )
