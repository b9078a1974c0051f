"""Features equal those of timm and transformers, from random weights."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax import augment
from plankton_jax.nn import convnext, encoders, pretrained, transformer
from tests.timm_layout import draw_images
from tests.tiny_encoder import TINY

torch = pytest.importorskip('torch')


def _declare_operators():
  """Declares the operators that torchvision describes without checking.

  timm imports torchvision, whose build for CUDA cannot load its operators
  beside PyTorch's CPU build, and then stumbles over these two. No test uses
  them.
  """
  try:
    import torchvision  # noqa: F401
  except ImportError:
    pass
  except RuntimeError:
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
      library.define(
        f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
      )
    return library  # whose end would end the operators
  return None


_OPERATORS = _declare_operators()
timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')

WIDTH, HEADS, DEPTH = 48, 2, 2


def _randomise(network):
  """Draws every array, norms, biases and scales by channel among them."""
  torch.manual_seed(0)
  with torch.no_grad():
    for name, value in network.named_parameters():
      value.normal_(0, 0.4 if value.ndim == 1 else value[0].numel() ** -0.5)
      if 'norm' in name and name.endswith('weight'):
        value.add_(1)
  return network.eval()


def _transformer(kind):
  found = transformer.KINDS[kind]
  return transformer.Transformer(
    depth=DEPTH,
    width=WIDTH,
    heads=HEADS,
    kind=found,
    dtype=jnp.dtype('float32'),
    freeze=0,
    normalise=found.expects,
    convolution=jax.lax.conv_general_dilated,
  )


def _convnext(version):
  return convnext.ConvNeXt(
    depths=(1, 2, 1, 1),
    width=8,
    version=version,
    dtype=jnp.dtype('float32'),
    freeze=0,
    normalise=transformer.IMAGENET,
    convolution=jax.lax.conv_general_dilated,
  )


def _input(images, backbone):
  """What the peers are given: (image / 255 - mean) / std, [B, 3, H, W]."""
  mean, std = (np.array(part) for part in backbone.published.expects)
  x = (np.repeat(images, 3 // images.shape[-1], -1) / 255.0 - mean) / std
  return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


def _ours(backbone, path, images):
  x = augment.to_float(jnp.asarray(images), backbone.normalise)
  fresh = jax.eval_shape(
    functools.partial(backbone.init, train=False), jax.random.key(0), x
  )
  variables = pretrained.begin(
    {'batch_stats': {}, **fresh}, backbone=backbone, path=str(path)
  )
  return jax.jit(functools.partial(backbone.apply, train=False))(variables, x)


def _tokens(found, prefix):
  """The class token beside the mean of the patches."""
  found = found.numpy()
  return np.concatenate([found[:, 0], found[:, prefix:].mean(1)], axis=1)


def _close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * want.std())


@pytest.mark.parametrize(
  ('kind', 'patches'),
  [
    *((kind, 4) for kind in transformer.KINDS),  # as many as in the file
    # timm shrinks the positions of DINOv2 otherwise than its authors.
    *((kind, 3) for kind in transformer.KINDS if kind != 'patch14_dinov2'),
    ('patch14_reg4_dinov2', 6),
  ],
)
def test_transformers_of_timm(kind, patches, tmp_path):
  backbone, found = _transformer(kind), transformer.KINDS[kind]
  network = _randomise(
    timm.create_model(
      f'vit_small_{kind}',
      img_size=4 * found.patch,
      dynamic_img_size=True,
      depth=DEPTH,
      embed_dim=WIDTH,
      num_heads=HEADS,
    )
  )
  torch.save(network.state_dict(), tmp_path / 'a.pth')
  images = draw_images(patches * found.patch)
  with torch.no_grad():
    want = network.forward_features(_input(images, backbone))
  got = _ours(backbone, tmp_path / 'a.pth', images)
  _close(got, _tokens(want, 1 + found.registers))


def test_dinov3_of_timm_with_biases(tmp_path):
  backbone = _transformer('patch16_dinov3')
  network = _randomise(
    timm.create_model(
      'vit_small_patch16_dinov3_qkvb',
      depth=DEPTH,
      embed_dim=WIDTH,
      num_heads=HEADS,
    )
  )
  torch.save(network.state_dict(), tmp_path / 'a.pth')
  images = draw_images(48, channels=1)
  with torch.no_grad():
    want = network.forward_features(_input(images, backbone))
  _close(_ours(backbone, tmp_path / 'a.pth', images), _tokens(want, 5))


# From the names in the library to those in files on its hub.
_ON_THE_HUB = {
  'attention.q_proj.': 'attention.attention.query.',
  'attention.k_proj.': 'attention.attention.key.',
  'attention.v_proj.': 'attention.attention.value.',
  'attention.o_proj.': 'attention.output.dense.',
}


@pytest.mark.parametrize('patches', [4, 3, 6])
@pytest.mark.parametrize(
  'kind', ['patch14_dinov2', 'patch14_reg4_dinov2', 'patch16_dinov3']
)
def test_transformers_of_transformers(kind, patches, tmp_path):
  backbone, found = _transformer(kind), transformer.KINDS[kind]
  shared = {
    'hidden_size': WIDTH,
    'num_hidden_layers': DEPTH,
    'num_attention_heads': HEADS,
    'patch_size': found.patch,
    'image_size': 4 * found.patch,
    'intermediate_size': 4 * WIDTH,
    'num_register_tokens': found.registers,
  }
  build = {
    'patch14_dinov2': lambda: transformers.Dinov2Model(
      transformers.Dinov2Config(**shared)
    ),
    'patch14_reg4_dinov2': lambda: transformers.Dinov2WithRegistersModel(
      transformers.Dinov2WithRegistersConfig(**shared)
    ),
    'patch16_dinov3': lambda: transformers.DINOv3ViTModel(
      transformers.DINOv3ViTConfig(**shared)
    ),
  }
  network = _randomise(build[kind]())
  state = network.state_dict()
  if 'dinov2' in kind:
    for ours, theirs in _ON_THE_HUB.items():
      state = {name.replace(ours, theirs): x for name, x in state.items()}
  torch.save(state, tmp_path / 'a.pth')
  images = draw_images(patches * found.patch, channels=1)
  with torch.no_grad():
    want = network(_input(images, backbone)).last_hidden_state
  got = _ours(backbone, tmp_path / 'a.pth', images)
  _close(got, _tokens(want, 1 + found.registers))


@pytest.mark.parametrize('side', [64, 51])
@pytest.mark.parametrize('name', ['atto', 'tiny', 'v2_atto', 'v2_tiny'])
def test_convnexts_of_timm(name, side, tmp_path):
  backbone = _convnext(2 if name.startswith('v2') else 1)
  network = _randomise(
    timm.create_model(
      f'convnext{"" if name.startswith("v2") else "_"}{name}',
      depths=backbone.depths,
      dims=[8 * 2**i for i in range(4)],
    )
  )
  torch.save(network.state_dict(), tmp_path / 'a.pth')
  images = draw_images(side)
  with torch.no_grad():
    found = network.forward_features(_input(images, backbone))
    want = network.forward_head(found, pre_logits=True).numpy()
  _close(_ours(backbone, tmp_path / 'a.pth', images), want)


def test_convnext_of_transformers(tmp_path):
  backbone = _convnext(1)
  network = _randomise(
    transformers.DINOv3ConvNextModel(
      transformers.DINOv3ConvNextConfig(
        hidden_sizes=[8 * 2**i for i in range(4)], depths=list(backbone.depths)
      )
    )
  )
  torch.save(network.state_dict(), tmp_path / 'a.pth')
  images = draw_images(64, channels=1)
  with torch.no_grad():
    want = network(_input(images, backbone)).pooler_output.numpy()
  _close(_ours(backbone, tmp_path / 'a.pth', images), want)


@pytest.mark.parametrize('name', [*convnext.NAMES, *transformer.NAMES])
def test_every_name_takes_the_weights_of_that_name(name):
  with torch.device('meta'):
    network = timm.create_model(name)
  zeros = {
    key: np.broadcast_to(np.float32(0), tuple(value.shape))
    for key, value in network.state_dict().items()
  }
  model = encoders.make(**(TINY | {'name': name, 'pretrained': 'a.pth'}))
  fresh = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, 112, 112, 3)), train=False),
    jax.random.key(0),
  )
  found = pretrained.convert(
    fresh,
    pretrained.rename(zeros, model.backbone.published),
    published=model.backbone.published,
    normalised=True,
    source=name,
  )
  left = {
    path[0]
    for path, value in flax.traverse_util.flatten_dict(found['params']).items()
    if isinstance(value, jax.ShapeDtypeStruct)
  }
  assert left == {'Dense_0'}
  expects = network.default_cfg['mean'], network.default_cfg['std']
  assert model.backbone.normalise == expects
