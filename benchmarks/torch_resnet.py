"""plankton_jax.nn.resnet's ResNet-18 in PyTorch, layer by layer.

The stem is 'quarter', convolutions have no bias, and the residual branch's
last norm starts at zero.
"""

import torch
from torch import nn
from torch.nn import functional


def _conv(inputs, features, kernel, stride):
  convolution = nn.Conv2d(
    inputs, features, kernel, stride, padding=kernel // 2, bias=False
  )
  nn.init.kaiming_normal_(convolution.weight)
  return convolution, nn.BatchNorm2d(features)


class Block(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  def __init__(self, inputs: int, features: int, stride: int):
    super().__init__()
    self.branch = nn.Sequential(
      *_conv(inputs, features, 3, stride),
      nn.ReLU(inplace=True),
      *_conv(features, features, 3, 1),
    )
    nn.init.zeros_(self.branch[-1].weight)
    same = inputs == features and stride == 1
    self.shortcut = (
      nn.Identity()
      if same
      else nn.Sequential(*_conv(inputs, features, 1, stride))
    )

  def forward(self, x):
    return functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
  """Images [B, C, H, W] to unit-norm embeddings [B, D].

  Args:
    width: features of the first stage.
    dim: D.
    channels: C.
    centred: the embedding is centred and scaled before it is normalised, as
      ours is by default; else it is a linear layer's, as PyTorch's users have
      it.
  """

  def __init__(
    self, width: int, dim: int, *, channels: int = 1, centred: bool = True
  ):
    super().__init__()
    layers = [
      *_conv(channels, width // 2, 3, 2),
      nn.ReLU(inplace=True),
      *_conv(width // 2, width, 3, 2),
      nn.ReLU(inplace=True),
    ]
    inputs = width
    for stage in range(4):
      for i in range(2):
        stride = 2 if stage > 0 and i == 0 else 1
        layers.append(Block(inputs, width * 2**stage, stride))
        inputs = width * 2**stage
    self.features = nn.Sequential(*layers)
    self.head = nn.Sequential(
      nn.Linear(inputs, dim, bias=not centred),
      nn.BatchNorm1d(dim, affine=False) if centred else nn.Identity(),
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return functional.normalize(self.head(self.features(x).mean((2, 3))))
