"""Starts encoders from weights trained with PyTorch.

The backbone declares the names of its layers there, and computes what they do.
The classifier is dropped.

Such weights expect (image / 255 - mean) / std of each colour. Backbones that
declare it in `normalise` are given that. For the others images have their own
background subtracted instead of that mean, so that 0, with which convolutions
pad, is the background; std is then folded into the first kernel. Grey images
have three equal colours: for them the kernel is summed over colours.
"""

import pathlib
import re
from typing import Any

import flax.traverse_util
import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.files import encoder_folder, home, weight_file
from plankton_jax.files.config_file import Config
from plankton_jax.nn import lora, transfer
from plankton_jax.nn.backbone import Backbone, Published, Weights

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
# PyTorch puts the outputs first.
_TRANSPOSED = {4: (2, 3, 1, 0), 2: (1, 0)}


def check(config: Config) -> None:
  """Checks that there are weights to begin from, before any data is read.

  Raises:
    InputError: there is no such file or encoder, or stages are to be frozen
      without any.
  """
  path, freeze = config['encoder']['pretrained'], config['encoder']['freeze']
  if freeze and not path:
    raise InputError(
      f'encoder.freeze={freeze} would keep random weights: name a file in'
      ' encoder.pretrained (docs/pretrained.md), or set encoder.freeze=0'
    )
  if _is_ours(path):
    encoder_folder.need(path, 'encoder.pretrained')
  elif path:
    _need_file(home.expand(path))


def begin(
  variables: dict[str, Any], *, backbone: Backbone, path: str
) -> dict[str, Any]:
  """Replaces the backbone's weights by those of a file, and keeps the head's.

  An encoder of this project is taken over as `transfer.begin` says.

  Args:
    variables: the encoder's fresh `params` and `batch_stats`.
    backbone: the encoder's, which declares the names in the file.
    path: of the weights, as .safetensors or written by `torch.save`; or an
      encoder of this project, by its folder or name.

  Raises:
    InputError: the file cannot be read, or holds another network.
  """
  if _is_ours(path):
    return transfer.begin(variables, backbone=backbone, name=path)
  published = backbone.published
  if published is None:
    raise InputError(
      'encoder.pretrained: no weights can be read for this encoder; leave it'
      ' empty'
    )
  weights = read(home.expand(path), published)
  return convert(
    variables,
    weights,
    published=published,
    normalised=backbone.normalise is not None,
    source=path,
  )


def _is_ours(path: str) -> bool:
  """Tells whether a path names an encoder of this project."""
  if not path:
    return False
  return encoder_folder.find(path) is not None or not weight_file.is_named(path)


def _need_file(path: pathlib.Path) -> None:
  if not path.is_file():
    raise InputError(
      f'encoder.pretrained: {path}: no such file; docs/pretrained.md says where'
      ' to get one'
    )


def read(path: pathlib.Path, published: Published) -> Weights:
  """Reads the arrays of a file by the names that the backbone declares.

  Leaves out the prefix that all names share.

  Raises:
    InputError: the file does not exist, is damaged, holds another network, or
      is a .pth file and PyTorch is not installed.
  """
  _need_file(path)
  if path.suffix == '.safetensors':
    try:
      arrays = weight_file.read(path).arrays
    except InputError as error:
      raise _unreadable(path, error) from None
  else:
    arrays = _read_with_torch(path)
  arrays = rename(arrays, published)
  # Training checkpoints often prefix each name with the network's.
  landmark = published.landmark
  prefix = next(
    (name[: -len(landmark)] for name in arrays if name.endswith(landmark)), None
  )
  if prefix is None:
    raise InputError(
      f'{path}: not a {published.network}: no {landmark!r} in it; set'
      ' encoder.name to the network of these weights'
    )
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def rename(weights: Weights, published: Published) -> Weights:
  """Brings the names of any library to those that the backbone declares."""
  for pattern, replacement in published.renames:
    weights = {
      re.sub(pattern, replacement, name): array
      for name, array in weights.items()
    }
  return weights


def _read_with_torch(path: pathlib.Path) -> Weights:
  """Reads a file that `torch.save` wrote, without running code in it.

  Raises:
    InputError: PyTorch is not installed, or the file holds no weights.
  """
  try:
    import torch
  except ImportError:
    raise InputError(
      f'{path}: only PyTorch reads this format; install it with pip install'
      ' torch, or give the same weights as .safetensors'
    ) from None
  try:
    # Code in the file is refused, not run.
    found = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # damaged bytes can fail anywhere in the parser
    raise _unreadable(path, error) from None
  if isinstance(found, dict):
    found = found.get('state_dict', found)
  if not isinstance(found, dict):
    raise InputError(f'{path}: not a state_dict; save model.state_dict()')
  return {
    name: value.detach().float().numpy()
    for name, value in found.items()
    if isinstance(name, str) and torch.is_tensor(value)
  }


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
  reason = next(iter(str(error).splitlines()), '') or 'cut short'
  return InputError(f'{path}: no readable weights ({reason})')


def convert(
  variables: dict[str, Any],
  weights: Weights,
  *,
  published: Published,
  normalised: bool,
  source: str,
) -> dict[str, Any]:
  """Returns `params` and `batch_stats` with the weights in place.

  Adapters begin as drawn.

  Args:
    variables: the encoder's, whose head is kept; the first kernel
      [h, w, C, F] says whether images are RGB or grey.
    weights: from `read`.
    published: the backbone's declaration.
    normalised: whether images are normalised as the weights expect; otherwise
      their backgrounds are subtracted.
    source: the name of the weights in errors.

  Raises:
    InputError: a name is missing or left over, a shape does not fit, or a
      value is not finite.
  """
  remedy = f'encoder.name must be the {published.network} of these weights'
  weights = published.rewrite(weights)
  deviations = np.array(published.expects.std, np.float32)
  used = set()

  def replace(path: tuple[Any, ...], ours: Any) -> Any:
    name = published.arrays.get(path)
    layer = None if lora.is_adapter(path) else published.layers.get(path[:-1])
    if name is None and layer:
      name = f'{layer}.{_LEAVES[path[-1]]}'
    if name is None:
      return ours
    if name not in weights:
      raise InputError(f'{source}: {name!r} is missing; {remedy}')
    used.add(name)
    theirs = np.asarray(weights[name], np.float32)
    if path[-1] == 'kernel' and theirs.ndim in _TRANSPOSED:
      theirs = theirs.transpose(_TRANSPOSED[theirs.ndim])
    first = name == f'{published.first}.weight' and theirs.shape[-2] == 3
    if first and not normalised:
      theirs = theirs / deviations[:, None]
      if ours.shape[-2] == 1:
        theirs = theirs.sum(axis=-2, keepdims=True)
    theirs = published.fit(name, theirs, ours.shape)
    if theirs.shape != ours.shape:
      raise InputError(
        f'{source}: {name!r} is {theirs.shape}, not {ours.shape}; {remedy}'
      )
    if not np.isfinite(theirs).all():
      raise InputError(
        f'{source}: {name!r} is not finite; get the file once more'
      )
    return theirs

  converted = {
    collection: dict(
      flax.traverse_util.path_aware_map(replace, variables[collection])
    )
    for collection in ('params', 'batch_stats')
  }
  for name in weights:
    if name not in used and not re.fullmatch(published.unused, name):
      raise InputError(f'{source}: {name!r} is left over; {remedy}')
  return converted
