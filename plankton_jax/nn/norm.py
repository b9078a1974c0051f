"""Normalises by the batch as Flax does, in fewer passes where oneDNN serves."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from plankton_jax.nn.conv import choice, onednn


class BatchNorm(nn.BatchNorm):
  """Flax's norm of [B, H, W, C], with its names, and a ReLU if `rectified`.

  Training in bfloat16 on a CPU is done by oneDNN: XLA keeps several copies of
  the images in float32.
  """

  rectified: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
    trains = not (self.use_running_average or self.is_initializing())
    if not (trains and choice.onednn_normalises(x)):
      x = super().__call__(x)
      return nn.relu(x) if self.rectified else x
    features = x.shape[-1:]
    kept = (
      self.variable('batch_stats', 'mean', jnp.zeros, features),
      self.variable('batch_stats', 'var', jnp.ones, features),
    )
    scale = self.param('scale', self.scale_init, features)
    bias = self.param('bias', self.bias_init, features)
    x, *found = onednn.batch_norm(x, scale, bias, self.epsilon, self.rectified)
    for old, new in zip(kept, found, strict=True):
      old.value = self.momentum * old.value + (1 - self.momentum) * new
    return x
