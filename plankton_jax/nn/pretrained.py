"""Encoders that begin from ResNet weights trained with PyTorch.

torchvision's ResNets and timm's of the same names share their layout, and
ours compute what they do: BatchNorm alike, and the bottleneck's stride in its
3x3 convolution (torchvision's v1.5). The classifier `fc` is left out.

Such weights expect (image / 255 - mean) / std of each colour. Our images are
taken off their own background in place of that mean, so that 0, with which
convolutions pad, is the background; std is folded into the first kernel. Grey
images are three equal colours: there the kernel is summed over them.
"""

import pathlib
import pickle
import re

import flax.traverse_util
import numpy as np
import safetensors.numpy

from plankton_jax.errors import InputError
from plankton_jax.nn.encoder import ResNet, stage_of
from plankton_jax.train.state import TrainState

_STD = np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet's RGB / 255
_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_REMEDY = 'encoder.name must be the ResNet that the weights are of'
_UNUSED = re.compile(r'fc\.(weight|bias)|.*\.num_batches_tracked')

Weights = dict[str, np.ndarray]  # by the names of a ResNet's state_dict


def begin(state: TrainState, *, model: ResNet, path: str) -> TrainState:
  """The state with its stem and stages from a file; the embedding stays.

  Args:
    state: a fresh one.
    model: the encoder it is of.
    path: of the weights, .safetensors or what `torch.save` writes.

  Raises:
    InputError: a file that cannot be read, or holds another network.
  """
  weights = read(pathlib.Path(path).expanduser())
  params, batch_stats = convert(
    model, state.params['encoder'], state.batch_stats, weights, source=path
  )
  return state.replace(
    params={**state.params, 'encoder': params}, batch_stats=batch_stats
  )


def read(path: pathlib.Path) -> Weights:
  """The arrays of a file, by the names of torchvision's ResNet.

  Raises:
    InputError: no such file, one that is damaged or holds no ResNet, or .pth
      where PyTorch is not installed.
  """
  if not path.is_file():
    raise InputError(f'encoder.pretrained: {path}: no such file')
  try:
    if path.suffix == '.safetensors':
      arrays = safetensors.numpy.load_file(path)
    else:
      arrays = _read_with_torch(path)
  except (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
  ) as error:
    reason = str(error).splitlines()[0] if str(error) else 'cut short'
    raise InputError(f'{path}: no readable weights ({reason})') from None
  # Checkpoints of a training often put the network's own name before each.
  first = 'layer1.0.conv1.weight'
  prefix = next((n[: -len(first)] for n in arrays if n.endswith(first)), None)
  if prefix is None:
    raise InputError(f'{path}: not a ResNet: no {first!r} in it')
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def _read_with_torch(path):
  try:
    import torch
  except ImportError:
    raise InputError(
      f'{path}: only PyTorch reads this format; install it with pip install'
      ' torch, or give the same weights as .safetensors'
    ) from None
  found = torch.load(path, map_location='cpu', weights_only=True)
  if not isinstance(found, dict):
    raise InputError(f'{path}: not a state_dict; save model.state_dict()')
  found = found.get('state_dict', found)
  return {
    name: value.float().numpy()
    for name, value in found.items()
    if torch.is_tensor(value)
  }


def convert(
  model: ResNet,
  params: dict,
  batch_stats: dict,
  weights: Weights,
  *,
  source: str,
) -> tuple[dict, dict]:
  """`params` and `batch_stats` of the encoder with the weights in place.

  Args:
    model: the encoder.
    params: whose embedding is kept; the first kernel [7, 7, C, 64] says
      whether images are RGB or grey.
    batch_stats: likewise.
    weights: from `read`.
    source: what errors call them.

  Raises:
    InputError: a name that is missing or left over, a shape that does not
      fit, or a value that is not finite.
  """
  used = set()

  def found(path, ours):
    layer = _layer(model, path[:-1])
    if layer is None:
      return ours
    name = f'{layer}.{_LEAVES[path[-1]]}'
    if name not in weights:
      raise InputError(f'{source}: {name!r} is missing; {_REMEDY}')
    used.add(name)
    theirs = np.asarray(weights[name], np.float32)
    if theirs.ndim == 4:
      theirs = theirs.transpose(2, 3, 1, 0)
    if name == 'conv1.weight' and theirs.shape[2] == len(_STD):
      theirs = theirs / _STD[:, None]
      if ours.shape[2] == 1:
        theirs = theirs.sum(axis=2, keepdims=True)
    if theirs.shape != ours.shape:
      raise InputError(
        f'{source}: {name!r} is {theirs.shape}, not {ours.shape}; {_REMEDY}'
      )
    if not np.isfinite(theirs).all():
      raise InputError(f'{source}: {name!r} is not finite; get the file anew')
    return theirs

  converted = [
    flax.traverse_util.path_aware_map(found, tree)
    for tree in (params, batch_stats)
  ]
  for name in weights:
    if name not in used and not _UNUSED.fullmatch(name):
      raise InputError(f'{source}: {name!r} is left over; {_REMEDY}')
  return tuple(converted)


def _layer(model: ResNet, path: tuple[str, ...]) -> str | None:
  """torchvision's name of a convolution or norm; None for the embedding's."""
  if len(path) == 1:
    return {'Conv_0': 'conv1', 'BatchNorm_0': 'bn1'}.get(path[0])
  stage = stage_of(model, path[0])
  block = int(path[0].split('_')[1]) - sum(model.stage_sizes[: stage - 1])
  kind, number = path[1].split('_')
  norm = kind == 'BatchNorm'
  if int(number) == len(model.block.kernels):
    return f'layer{stage}.{block}.downsample.{int(norm)}'
  return f'layer{stage}.{block}.{"bn" if norm else "conv"}{int(number) + 1}'
