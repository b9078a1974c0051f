"""A small encoder and its images, for tests of the network's parts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.files import encoder_folder
from plankton_jax.nn import encoders
from plankton_jax.nn.embedding import MEASURES
from plankton_jax.train.state import join_frozen, split_frozen

TINY = {
  'name': 'resnet10',
  'width': 4,
  'stem': 'half',
  'embedding_dim': 6,
  'dtype': 'float32',
  'pretrained': '',
  'normalise': 'auto',
  'freeze': 0,
  'lora_rank': 0,
  'lora_alpha': 16.0,
  'whitening': 0.0,
  'poses': 1,
  'centred': True,
  'size': False,
  'measures': (),
}

# Of optimizer.make, but for the model.
OPTIMIZER = {
  'learning_rate': 0.1,
  'schedule': 'constant',
  'warmup_epochs': 0.0,
  'weight_decay': 0.0,
  'objective_rate': 1.0,
  'encoder_rate': 1.0,
  'layer_decay': 1.0,
  'epochs': 10,
  'steps_per_epoch': 4,
}


def apply(images, **fields):
  """Initialises an encoder; returns it jitted, its variables, its output."""
  model = encoders.make(**(TINY | fields))
  variables = jax.jit(lambda k: model.init(k, images, train=False))(
    jax.random.key(0, impl='rbg')
  )
  embed = jax.jit(lambda v, x: model.apply(v, x, train=False))
  return embed, variables, embed(variables, images)


def make_images(side, channels=1, count=3):
  """Draws normal images [count, side, side, channels]."""
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=(count, side, side, channels)), 'float32')


def check_frozen(backbone, variables, images):
  """Asserts that what is trained, and nothing else, has a gradient."""
  trained, frozen = split_frozen({'encoder': variables['params']}, backbone)
  features = jax.jit(
    lambda part: backbone.apply(
      {'params': join_frozen(part, frozen)}, images, train=True
    )
  )
  grads = jax.jit(jax.grad(lambda part: jnp.sum(features(part) ** 3)))(
    trained['encoder']
  )
  chex.assert_tree_all_finite(grads)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
  later = backbone.stages[backbone.freeze :]
  assert grads.keys() == {name for names in later for name in names}


@functools.cache
def _shapes(shape, **fields):
  """The shapes of an encoder's variables, traced once in a session."""
  images = jnp.zeros(shape)
  return jax.eval_shape(
    lambda key: encoders.make(**fields).init(key, images, train=False),
    jax.random.key(0),
  )


def draw(config, *, seed=0):
  """Draws every array of an encoder of a config: params and batch_stats."""
  data, fields = config['data'], config['encoder']
  hashed = fields | {'measures': tuple(fields['measures'])}
  shapes = _shapes((1, data['size'], data['size'], data['channels']), **hashed)
  rng = np.random.default_rng(seed)

  def array(x):
    if x.dtype == bool:  # whether sizes are in µm
      return np.zeros(x.shape, bool)
    if x.ndim > 1:  # a kernel
      return rng.normal(0.0, x.size**-0.25, x.shape).astype(x.dtype)
    return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)  # variances too

  variables = jax.tree.map(array, shapes)
  return variables['params'], variables['batch_stats']


def make_prototypes(count, dim):
  """Draws the prototypes [count, dim] of classes."""
  rng = np.random.default_rng(0)
  return rng.normal(size=(count, dim)).astype(np.float32)


def save(folder, config, class_names=('ant', 'bee'), *, half=False):
  """Exports an encoder of a config, every array of it random."""
  params, batch_stats = draw(config)
  if MEASURES in batch_stats:
    batch_stats[MEASURES]['in_um'] = np.array(True)
  prototypes = make_prototypes(
    len(class_names), config['encoder']['embedding_dim']
  )
  encoder_folder.save(
    folder,
    params={'encoder': params, 'objective': {'prototypes': prototypes}},
    batch_stats=batch_stats,
    config=config,
    class_names=class_names,
    step=7,
    card='# A card\n',
    half=half,
  )
  return folder
