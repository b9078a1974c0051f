"""Lists the backbones, and builds the encoder that a config names."""

from collections.abc import Callable, Sequence

import jax

from plankton_jax.errors import InputError
from plankton_jax.files import weight_file
from plankton_jax.nn import convnext, resnet, transformer
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.conv.choice import computing_dtype, conv_general_dilated
from plankton_jax.nn.embedding import Embedder

# Each takes `name`, `width`, `stem`, `dtype`, `freeze`, `pretrained` (whether
# published weights will be read) and `convolution`, by keyword.
BACKBONES: dict[str, Callable[..., Backbone]] = {
  'resnet10': resnet.make,
  'resnet18': resnet.make,
  'resnet34': resnet.make,
  'resnet50': resnet.make,
  **dict.fromkeys(convnext.NAMES, convnext.make),
  **dict.fromkeys(transformer.NAMES, transformer.make),
}
_DTYPES = ('float32', 'bfloat16')
_POSES = (1, 8)


def make(
  *,
  name: str,
  width: int,
  stem: str,
  embedding_dim: int,
  dtype: str,
  poses: int,
  centred: bool,
  pretrained: str,
  freeze: int,
  whitening: float,
  size: bool,
  measures: Sequence[str],
  convolution: Callable[..., jax.Array] = conv_general_dilated,
) -> Embedder:
  """Builds the encoder of a config's `encoder` section.

  The weights of `pretrained` are not read here but by `nn.pretrained`.

  Args:
    name: of the backbone.
    width: features of a ResNet's first stage.
    stem: how a ResNet begins.
    embedding_dim: D.
    dtype: of the backbone's computation.
    poses: views that an embedding averages outside of training.
    centred: centre embeddings by batch statistics before they are normalised.
    pretrained: a file of published weights, an encoder of this project, or ''.
    freeze: how many stages stay untrained.
    whitening: power by which embeddings are whitened after training, 0 for not.
    size: whether the original size is an input.
    measures: names of further measures that are.
    convolution: a replacement of `lax.conv_general_dilated`.

  Raises:
    InputError: a name, stem, dtype or number of poses is unknown, there are
      fewer stages than to freeze, or pretrained weights would not fit.
  """
  for field, value, known in (
    ('name', name, tuple(BACKBONES)),
    ('dtype', dtype, _DTYPES),
    ('poses', poses, _POSES),
  ):
    if value not in known:
      raise InputError(
        f'encoder.{field}={value!r} is unknown; choose from'
        f' {", ".join(map(str, known))}'
      )
  published = weight_file.is_named(pretrained)
  backbone = BACKBONES[name](
    name=name,
    width=width,
    stem=stem,
    dtype=computing_dtype(dtype),
    freeze=freeze,
    pretrained=published,
    convolution=convolution,
  )
  stages = len(backbone.stages)
  if not 0 <= freeze <= stages:
    raise InputError(
      f'encoder.freeze={freeze} is out of range; 0 freezes none, {stages} all'
      ' but the embedding'
    )
  if published and backbone.published is None:
    raise InputError(
      f'encoder.pretrained: no weights can be read for {name}; leave it empty'
    )
  return Embedder(
    backbone=backbone,
    embedding_dim=embedding_dim,
    poses=poses,
    centred=centred,
    size=size,
    others=tuple(measures),
    whitened=whitening > 0,
  )
