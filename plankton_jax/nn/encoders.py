"""Lists the backbones, and builds the encoder that a config names."""

from collections.abc import Callable, Sequence

import jax

from plankton_jax.errors import InputError
from plankton_jax.files import weight_file
from plankton_jax.nn import convnext, resnet, transformer
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.conv.choice import computing_dtype, conv_general_dilated
from plankton_jax.nn.embedding import Embedder
from plankton_jax.nn.lora import Adapter

# Each takes `name`, `width`, `stem`, `dtype`, `freeze`, `pretrained` (whether
# images are normalised as published weights expect), `convolution` and
# `adapter` (of its dense layers, or None), by keyword.
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
_NORMALISE = ('auto', 'published')


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
  normalise: str,
  freeze: int,
  lora_rank: int,
  lora_alpha: float,
  whitening: float,
  size: bool,
  measures: Sequence[str],
  convolution: Callable[..., jax.Array] = conv_general_dilated,
  adapted: bool = True,
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
    normalise: 'auto' as the weights of `pretrained` expect if they are
      published, 'published' as those expect in any case.
    freeze: how many stages stay untrained.
    lora_rank: of the adapters of frozen dense layers, 0 for none.
    lora_alpha: of the adapters.
    whitening: power by which embeddings are whitened after training, 0 for not.
    size: whether the original size is an input.
    measures: names of further measures that are.
    convolution: a replacement of `lax.conv_general_dilated`.
    adapted: whether there are adapters, which only training needs: then they
      are merged into the kernels.

  Raises:
    InputError: a name, stem, dtype or number of poses is unknown, there are
      fewer stages than to freeze, or stages are trained beside adapters, or
      pretrained weights would not fit.
  """
  for field, value, known in (
    ('name', name, tuple(BACKBONES)),
    ('dtype', dtype, _DTYPES),
    ('poses', poses, _POSES),
    ('normalise', normalise, _NORMALISE),
  ):
    if value not in known:
      raise InputError(
        f'encoder.{field}={value!r} is unknown; choose from'
        f' {", ".join(map(str, known))}'
      )
  published = weight_file.is_named(pretrained)
  if normalise == 'published' and BACKBONES[name] is resnet.make:
    raise InputError(
      "encoder.normalise='published' is for ConvNeXts and vision transformers;"
      f" set it to 'auto' for {name}"
    )
  backbone = BACKBONES[name](
    name=name,
    width=width,
    stem=stem,
    dtype=computing_dtype(dtype),
    freeze=freeze,
    pretrained=published or normalise == 'published',
    convolution=convolution,
    adapter=Adapter(lora_rank, lora_alpha) if lora_rank and adapted else None,
  )
  stages = len(backbone.stages)
  if not 0 <= freeze <= stages:
    raise InputError(
      f'encoder.freeze={freeze} is out of range; 0 freezes none, {stages} all'
      ' but the embedding'
    )
  if lora_rank and freeze < stages:
    raise InputError(
      f'encoder.lora_rank={lora_rank} adapts a frozen network: set'
      f' encoder.freeze={stages}, all of its stages, not {freeze}'
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
