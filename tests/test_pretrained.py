import json
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_layout

from plankton_jax import augment
from plankton_jax.checkpoints import load_encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders, pretrained, resnet
from plankton_jax.train import loop
from tests.tiny_encoder import TINY


def of_type(name, size=1):
  """A safetensors file of one array of two elements of so many bytes."""
  array = {'dtype': name, 'shape': [2], 'data_offsets': [0, 2 * size]}
  header = json.dumps({'a': array}).encode()
  return struct.pack('<Q', len(header)) + header + bytes(2 * size)


STD = np.array([0.229, 0.224, 0.225])


def _model(name='resnet18', width=4):
  fields = {'name': name, 'width': width, 'stem': 'imagenet'}
  return encoders.make(**(TINY | fields))


RESNET = _model().backbone.published


def _variables(model, channels, side=32):
  images = jnp.zeros((1, side, side, channels))
  return jax.jit(lambda key: model.init(key, images, train=False))(
    jax.random.key(0, impl='rbg')
  )


def _images(channels, side=45):
  """uint8 on a background of another brightness in each, at the border."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, side, side, channels), np.uint8)
  background = np.array([0, 130, 255], np.uint8)[:, None, None, None]
  images[:, [0, -1]] = background
  images[:, :, [0, -1]] = background
  return images, background


def _features(model, variables, images):
  """The mean of the last stage's output, [B, F]."""
  block = model.backbone.stages[-1][-1]
  _, caught = jax.jit(
    lambda v, x: model.apply(
      v,
      augment.to_float(x),
      train=False,
      capture_intermediates=lambda module, _: module.name == block,
    )
  )(variables, images)
  return caught['intermediates'][block]['__call__'][0].mean(axis=(1, 2))


def _expected_input(images, background):
  """[B, 3, H, W], off the background and over ImageNet's deviations."""
  x = (images.astype(np.float64) - background) / 255 / STD
  return x.transpose(0, 3, 1, 2)


def _converted(model, weights, channels):
  variables = _variables(model, channels)
  found = pretrained.convert(
    variables,
    weights,
    published=model.backbone.published,
    normalised=False,
    source='weights',
  )
  dense = variables['params']['Dense_0']['kernel']
  np.testing.assert_array_equal(found['params']['Dense_0']['kernel'], dense)
  return found


@pytest.mark.parametrize(
  ('name', 'channels'),
  [('resnet18', 1), ('resnet18', 3), ('resnet50', 1)],
)
def test_features_are_those_of_the_layout(name, channels):
  model, weights = _model(name), torch_layout.weights(name, 4)
  variables = _converted(model, weights, channels)
  images, background = _images(channels)
  want = torch_layout.features(
    name, weights, _expected_input(images, background)
  )
  got = _features(model, variables, images)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * want.max())


def _torch_resnet(name, width):
  """A ResNet of torch.nn with torchvision's names, and its forward pass."""
  from torch import nn

  def pair(inputs, outputs, side, stride):
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)

  class Block(nn.Module):
    def __init__(self, inputs, features, stride):
      super().__init__()
      if name == 'resnet50':
        self.conv1, self.bn1 = pair(inputs, features, 1, 1)
        self.conv2, self.bn2 = pair(features, features, 3, stride)
        self.conv3, self.bn3 = pair(features, 4 * features, 1, 1)
        outputs = 4 * features
      else:
        self.conv1, self.bn1 = pair(inputs, features, 3, stride)
        self.conv2, self.bn2 = pair(features, features, 3, 1)
        outputs = features
      self.downsample = None
      if stride != 1 or inputs != outputs:
        self.downsample = nn.Sequential(*pair(inputs, outputs, 1, stride))

    def forward(self, x):
      y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
      if name == 'resnet50':
        y = self.bn3(self.conv3(y.relu()))
      return (y + (x if self.downsample is None else self.downsample(x))).relu()

  class ResNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = pair(3, width, 7, 2)
      self.maxpool = nn.MaxPool2d(3, 2, 1)
      inputs = width
      for stage, blocks in enumerate(torch_layout.BLOCKS[name], start=1):
        layer = []
        for i in range(blocks):
          stride = 2 if stage > 1 and i == 0 else 1
          layer.append(Block(inputs, width * 2 ** (stage - 1), stride))
          inputs = (4 if name == 'resnet50' else 1) * width * 2 ** (stage - 1)
        setattr(self, f'layer{stage}', nn.Sequential(*layer))
      self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
      x = self.maxpool(self.bn1(self.conv1(x)).relu())
      for stage in range(1, 5):
        x = getattr(self, f'layer{stage}')(x)
      return x.mean((2, 3))

  return ResNet()


@pytest.mark.parametrize(
  ('name', 'width'), [('resnet18', 64), ('resnet50', 16)]
)
def test_a_pth_of_torch_gives_its_features(name, width, tmp_path):
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  network = _torch_resnet(name, width)
  images, background = _images(3, side=64)
  x = torch.tensor(_expected_input(images, background), dtype=torch.float32)
  with torch.no_grad():
    network.train()(x)  # its running statistics are now those of images
    want = network.eval()(x).numpy()
  state = network.state_dict()
  assert state.keys() == torch_layout.weights(name, width).keys()
  torch.save(state, tmp_path / 'plain.pth')
  # As a training framework saves it, under the network's own name, and with
  # parameters that want gradients.
  state |= dict(network.named_parameters())
  named = {f'module.encoder.{k}': v for k, v in state.items()}
  torch.save({'state_dict': named, 'epoch': 3}, tmp_path / 'nested.pt')
  model = _model(name, width)
  for file in ('plain.pth', 'nested.pt'):
    weights = pretrained.read(tmp_path / file, RESNET)
    got = _features(model, _converted(model, weights, 3), images)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * want.max())


def test_a_pickle_with_code_is_not_run(tmp_path):
  torch = pytest.importorskip('torch')

  class Bomb:
    def __reduce__(self):
      return (tmp_path.joinpath('ran').touch, ())

  torch.save({'layer1.0.conv1.weight': Bomb()}, tmp_path / 'bomb.pth')
  with pytest.raises(InputError, match='no readable weights'):
    pretrained.read(tmp_path / 'bomb.pth', RESNET)
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'no readable weights'),
    (b'\x80\x02', 'no readable weights'),
    (b'PK\x03\x04' + bytes(60), 'no readable weights'),
    ([1, 2], 'not a state_dict'),
    ({'state_dict': 3}, 'not a state_dict'),
    ({7: 'seven'}, 'not a ResNet'),
  ],
)
def test_a_pth_of_anything_else_is_one_line(content, message, tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'weights.pth'
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    torch.save(content, path)
  with pytest.raises(InputError, match=rf'weights\.pth: {message}') as error:
    pretrained.read(path, RESNET)
  assert '\n' not in str(error.value)


def test_a_torch_that_fails_in_any_way_is_one_line(tmp_path, monkeypatch):
  def load(path, *, map_location, weights_only):
    assert weights_only is True
    raise UnicodeDecodeError('ascii', b'\xff', 0, 1, 'first line\nsecond')

  fake = types.SimpleNamespace(load=load)
  monkeypatch.setitem(sys.modules, 'torch', fake)
  (tmp_path / 'a.pth').write_bytes(b'x')
  with pytest.raises(InputError, match='no readable weights') as error:
    pretrained.read(tmp_path / 'a.pth', RESNET)
  assert '\n' not in str(error.value)


def test_without_torch_pth_names_the_remedy(tmp_path, monkeypatch):
  (tmp_path / 'a.pth').write_bytes(b'PK')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(InputError, match=r'pip install torch, or .*safetensors'):
    pretrained.read(tmp_path / 'a.pth', RESNET)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'no such file'),
    (b'', 'no readable weights'),
    (b'\xff' * 64, 'no readable weights'),
    (safetensors.numpy.save({'a': np.zeros(1)}), 'not a ResNet'),
    (safetensors.numpy.save({'a': np.zeros(9)})[:-8], 'no readable weights'),
    (of_type('F8_E4M3'), r"no readable weights \('a' is of type F8_E4M3; save"),
    (of_type('BF16', 2), r"no readable weights \('a' is of type BF16; save"),
    (of_type('C64', 8), r"no readable weights \('a' is of type C64; save"),
    (of_type('Q8'), 'no readable weights'),
    (of_type('F32', 3), 'no readable weights'),
  ],
)
def test_files_that_are_no_weights(content, message, tmp_path):
  path = tmp_path / 'weights.safetensors'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(InputError, match=rf'weights\.safetensors: {message}'):
    pretrained.read(path, RESNET)


def test_weights_of_another_network_are_named():
  right = torch_layout.weights('resnet18', 4)
  name = 'layer3.0.downsample.0.weight'
  cases = {
    "'layer1.2.conv1.weight' is left over": torch_layout.weights('resnet34', 4),
    r"bn1.bias' is \(8,\), not \(4,\)": torch_layout.weights('resnet18', 8),
    f'{name!r} is missing': {k: v for k, v in right.items() if k != name},
    "'layer2.1.bn2.bias' is not finite": right
    | {'layer2.1.bn2.bias': np.full(8, np.nan, np.float32)},
    'is left over': right | {'layer1.0.se.fc1.weight': np.zeros((2, 2))},
  }
  for message, weights in cases.items():
    with pytest.raises(InputError, match=message):
      _converted(_model(), weights, 1)


def test_a_run_begins_from_weights_freezes_and_resumes_without_the_file(
  tmp_path, make_config, monkeypatch
):
  # A narrow network in place of the published ones, of eleven million weights.
  monkeypatch.setattr(resnet, 'PUBLISHED_WIDTH', 4)
  weights = torch_layout.weights('resnet18', 4)
  path = tmp_path / 'resnet18.safetensors'
  fields = {
    'encoder__name': 'resnet18',
    'encoder__width': 4,
    'encoder__stem': 'imagenet',
    'encoder__pretrained': str(path),
    'encoder__freeze': 3,
    'optimizer__weight_decay': 0.1,
    'optimizer__encoder_rate': 0.1,
    'validations_per_epoch': 1,
  }
  workdir = tmp_path / 'run'
  config = make_config(epochs=1, **fields)
  with pytest.raises(InputError, match='no such file'):
    loop.train_and_evaluate(config, workdir)
  assert not (workdir / 'config.json').exists()
  safetensors.numpy.save_file(weights, path)
  loop.train_and_evaluate(config, workdir)
  path.unlink()
  longer = make_config(epochs=2, **fields)
  state = loop.train_and_evaluate(longer, workdir, accept_changes=True)
  params, stats = state.params['encoder'], state.batch_stats

  def kernel(block, conv, name):
    want = weights[name].transpose(2, 3, 1, 0)
    return np.abs(params[f'BasicBlock_{block}'][conv]['kernel'] - want).max()

  stem = (weights['conv1.weight'] / STD[:, None, None].astype('f')).sum(1)
  np.testing.assert_allclose(
    params['Conv_0']['kernel'][:, :, 0], stem.transpose(1, 2, 0), rtol=1e-4
  )
  assert kernel(0, 'Conv_0', 'layer1.0.conv1.weight') == 0.0
  assert kernel(5, 'Conv_1', 'layer3.1.conv2.weight') == 0.0
  assert kernel(6, 'Conv_2', 'layer4.0.downsample.0.weight') > 0.0
  moved = lambda block, name: np.abs(
    stats[block]['BatchNorm_0']['mean'] - weights[name]
  ).max()
  assert moved('BasicBlock_5', 'layer3.1.bn1.running_mean') == 0.0
  assert moved('BasicBlock_6', 'layer4.0.bn1.running_mean') > 0.0
  assert load_encoder(workdir).config['encoder']['pretrained'] == str(path)
