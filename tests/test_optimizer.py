import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plankton_jax.errors import InputError
from plankton_jax.nn import encoders
from plankton_jax.train import optimizer
from plankton_jax.train.state import split_frozen
from tests.tiny_encoder import OPTIMIZER, TINY


def _model(freeze=0):
  fields = {'stem': 'quarter', 'embedding_dim': 2, 'freeze': freeze}
  return encoders.make(**(TINY | fields))


FIELDS = OPTIMIZER | {'model': _model()}
PARAMS = {
  'encoder': {
    'Conv_0': {'kernel': jnp.full((2, 2), 2.0)},
    'BatchNorm_0': {'scale': jnp.full(2, 2.0), 'bias': jnp.full(2, 2.0)},
    'Dense_0': {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.full(2, 2.0)},
  },
  'objective': {'prototypes': jnp.full((3, 2), 2.0)},
}


def _rates(**fields):
  """The step sizes that Adam takes on a constant gradient are the rates."""
  tx = optimizer.make(**(FIELDS | fields))
  params = {'encoder': {'Conv_0': {'kernel': jnp.zeros(())}}}
  opt_state, rates = tx.init(params), []
  for _ in range(40):
    updates, opt_state = tx.update(
      optax.tree.ones_like(params), opt_state, params
    )
    rates.append(-float(updates['encoder']['Conv_0']['kernel']))
  return np.array(rates)


def test_constant_rate():
  np.testing.assert_allclose(_rates(), 0.1, rtol=1e-4)


def test_cosine_with_warmup():
  rates = _rates(schedule='cosine', warmup_epochs=2.0)
  np.testing.assert_allclose(rates[:8], 0.1 * np.arange(8) / 8, atol=1e-5)
  left = np.arange(32)
  expected = 0.1 * (1 + np.cos(np.pi * left / 32)) / 2
  np.testing.assert_allclose(rates[8:], expected, atol=1e-5)


def test_decay_touches_the_encoders_kernels_alone():
  tx = optimizer.make(**(FIELDS | {'weight_decay': 0.5}))
  zeros = optax.tree.zeros_like(PARAMS)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
  decayed = optax.tree.zeros_like(PARAMS)
  for module in ('Conv_0', 'Dense_0'):
    decayed['encoder'][module]['kernel'] = jnp.full((2, 2), -0.1 * 0.5 * 2.0)
  chex.assert_trees_all_close(updates, decayed, rtol=1e-6)


def test_the_objectives_parameters_have_a_rate_of_their_own():
  tx = optimizer.make(**(FIELDS | {'objective_rate': 7.0}))
  ones = optax.tree.ones_like(PARAMS)
  updates, _ = tx.update(ones, tx.init(PARAMS), PARAMS)
  expected = jax.tree.map(lambda x: jnp.full_like(x, -0.1), PARAMS)
  expected['objective']['prototypes'] = jnp.full((3, 2), -0.7)
  chex.assert_trees_all_close(updates, expected, rtol=1e-4)


def test_encoder_and_head_have_rates_of_their_own_and_frozen_stages_none():
  names = ('Conv_0', 'BatchNorm_1', 'BasicBlock_1', 'BasicBlock_2', 'Dense_0')
  params = {
    'encoder': {name: {'kernel': jnp.ones(2)} for name in names},
    'objective': {'prototypes': jnp.ones(2)},
  }
  model = _model(freeze=2)
  fields = {'encoder_rate': 0.25, 'model': model, 'weight_decay': 0.5}
  tx = optimizer.make(**(FIELDS | fields))
  trained, frozen = split_frozen(params, model.backbone)
  assert frozen.keys() == {'Conv_0', 'BatchNorm_1', 'BasicBlock_1'}
  updates, _ = tx.update(
    optax.tree.ones_like(trained), tx.init(trained), trained
  )
  # Adam's first step is the rate; decay adds half of it to kernels of ones.
  want = {'BasicBlock_2': -0.25 * 0.15, 'Dense_0': -0.15}
  for name, update in updates['encoder'].items():
    np.testing.assert_allclose(update['kernel'], want.pop(name), rtol=1e-5)
  assert want == {}
  got = updates['objective']['prototypes']
  np.testing.assert_allclose(got, -0.1, rtol=1e-5)


def test_earlier_stages_are_slower_by_the_layer_decay():
  names = ('Conv_0', 'BasicBlock_0', 'BasicBlock_1', 'BasicBlock_3', 'Dense_0')
  params = {'encoder': {name: {'bias': jnp.ones(2)} for name in names}}
  fields = {'encoder_rate': 0.5, 'layer_decay': 0.5}
  tx = optimizer.make(**(FIELDS | fields))
  updates, _ = tx.update(optax.tree.ones_like(params), tx.init(params), params)
  rates = [-float(updates['encoder'][name]['bias'][0]) for name in names]
  # The last of four stages has encoder_rate, the stem that of the first.
  want = np.array([1 / 16, 1 / 16, 1 / 8, 1 / 2, 1]) * 0.1
  np.testing.assert_allclose(rates, want, rtol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'schedule': 'linear'}, 'schedule'),
    ({'warmup_epochs': 10.0}, 'warmup'),
  ],
)
def test_bad_fields_are_named(fields, message):
  with pytest.raises(InputError, match=message):
    optimizer.make(**(FIELDS | fields))
