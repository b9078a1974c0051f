"""ResNets by the names of torchvision: random weights, and what they compute.

NumPy in float64, images [B, C, H, W]; tests/test_pretrained.py holds these
names to PyTorch's where it is installed.
"""

import numpy as np

BLOCKS = {
  'resnet18': (2, 2, 2, 2),
  'resnet34': (3, 4, 6, 3),
  'resnet50': (3, 4, 6, 3),
}


def weights(name, width, seed=0):
  """A state_dict of float32 arrays, its classifier of 7 classes included."""
  rng = np.random.default_rng(seed)
  state = {}

  def conv(layer, norm, inputs, features, side):
    shape = (features, inputs, side, side)
    scale = np.sqrt(2 / (inputs * side * side))
    state[f'{layer}.weight'] = scale * rng.normal(size=shape)
    for leaf in ('weight', 'running_var'):
      state[f'{norm}.{leaf}'] = rng.uniform(0.5, 1.5, features)
    for leaf in ('bias', 'running_mean'):
      state[f'{norm}.{leaf}'] = rng.normal(0, 0.1, features)
    state[f'{norm}.num_batches_tracked'] = np.array(1000)

  conv('conv1', 'bn1', 3, width, 7)
  inputs, expansion = width, 4 if name == 'resnet50' else 1
  for stage, blocks in enumerate(BLOCKS[name], start=1):
    features = width * 2 ** (stage - 1)
    for block in range(blocks):
      at = f'layer{stage}.{block}'
      outputs = expansion * features
      sides = (1, 3, 1) if name == 'resnet50' else (3, 3)
      before = inputs
      for i, side in enumerate(sides, start=1):
        after = outputs if i == len(sides) else features
        conv(f'{at}.conv{i}', f'{at}.bn{i}', before, after, side)
        before = after
      if block == 0 and (stage > 1 or inputs != outputs):
        conv(f'{at}.downsample.0', f'{at}.downsample.1', inputs, outputs, 1)
      inputs = outputs
  state['fc.weight'] = rng.normal(size=(7, inputs))
  state['fc.bias'] = rng.normal(size=7)
  return {
    key: array.astype(np.int64 if array.ndim == 0 else np.float32)
    for key, array in state.items()
  }


def features(name, state, images):
  """Computes the input of the classifier, [B, C, H, W] -> [B, F]."""

  def conv(layer, x, stride):
    kernel = state[f'{layer}.weight'].astype(np.float64)
    side = kernel.shape[-1]
    windows = _windows(x, side, stride, 0.0)
    return np.einsum('bchwij,ocij->bohw', windows, kernel, optimize=True)

  def norm(layer, x):
    get = lambda leaf: state[f'{layer}.{leaf}'].astype(np.float64)
    mean, var = get('running_mean'), get('running_var')
    scale = get('weight') / np.sqrt(var + 1e-5)
    shift = get('bias') - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]

  relu = lambda x: np.maximum(x, 0)
  x = relu(norm('bn1', conv('conv1', images.astype(np.float64), 2)))
  x = _windows(x, 3, 2, -np.inf).max(axis=(-2, -1))
  for stage, blocks in enumerate(BLOCKS[name], start=1):
    for block in range(blocks):
      at = f'layer{stage}.{block}'
      stride = 2 if stage > 1 and block == 0 else 1
      strides = (1, stride, 1) if name == 'resnet50' else (stride, 1)
      y = x
      for i, s in enumerate(strides, start=1):
        y = norm(f'{at}.bn{i}', conv(f'{at}.conv{i}', y, s))
        y = relu(y) if i < len(strides) else y
      if f'{at}.downsample.0.weight' in state:
        x = norm(f'{at}.downsample.1', conv(f'{at}.downsample.0', x, stride))
      x = relu(x + y)
  return x.mean(axis=(2, 3))


def _windows(x, side, stride, value):
  pad = ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2)
  padded = np.pad(x, pad, constant_values=value)
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (side, side), axis=(2, 3)
  )
  return windows[:, :, ::stride, ::stride]
