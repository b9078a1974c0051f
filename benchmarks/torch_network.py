"""Defines our ResNet-18 and 50 and losses in PyTorch, layer by layer.

The stem is 'quarter', convolutions have no bias, and the residual branch's
last norm starts at zero.
"""

import math
from collections.abc import Callable

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
    blocks: of each stage; with one it is our ResNet-10.
    dim: D.
    channels: C.
    centred: the embedding is centred and scaled before it is normalised, as
      ours is by default; else it is a linear layer's, as PyTorch's users have
      it.
  """

  def __init__(
    self,
    width: int,
    dim: int,
    *,
    blocks: int = 2,
    channels: int = 1,
    centred: bool = True,
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
      for i in range(blocks):
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


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut; four times as wide."""

  def __init__(self, inputs: int, features: int, stride: int):
    super().__init__()
    width = 4 * features
    self.branch = nn.Sequential(
      *_conv(inputs, features, 1, 1),
      nn.ReLU(inplace=True),
      *_conv(features, features, 3, stride),
      nn.ReLU(inplace=True),
      *_conv(features, width, 1, 1),
    )
    nn.init.zeros_(self.branch[-1].weight)
    same = inputs == width and stride == 1
    self.shortcut = (
      nn.Identity() if same else nn.Sequential(*_conv(inputs, width, 1, stride))
    )

  def forward(self, x):
    return functional.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ResNet50(ResNet18):
  """Images [B, 1, H, W] to unit-norm embeddings [B, D]."""

  def __init__(self, width: int, dim: int):
    super().__init__(width, dim)
    stem = list(self.features)[:6]
    layers, inputs = [], width
    for stage, blocks in enumerate((3, 4, 6, 3)):
      for i in range(blocks):
        stride = 2 if stage > 0 and i == 0 else 1
        layers.append(Bottleneck(inputs, width * 2**stage, stride))
        inputs = 4 * width * 2**stage
    self.features = nn.Sequential(*stem, *layers)
    self.head = nn.Sequential(
      nn.Linear(inputs, dim, bias=False), nn.BatchNorm1d(dim, affine=False)
    )


class Triplet(nn.Module):
  """Mines 'easy+semihard' or 'hard+hard'; the mean hinge of all anchors."""

  def __init__(self, policy: str, margin: float):
    super().__init__()
    self.positive, self.negative = policy.split('+')
    self.margin = margin

  def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
      p, n, anchors = self._mined(x, labels)
    d_ap = (x - x[p]).square().sum(1)
    d_an = (x - x[n]).square().sum(1)
    hinge = functional.relu(d_ap - d_an + self.margin)
    return (hinge * anchors).sum() / anchors.sum()

  def _mined(self, x, labels):
    norms = x.square().sum(1)
    dists = (norms[:, None] + norms - 2 * x @ x.T).clamp_min(0)
    same = labels[:, None] == labels
    rows = torch.arange(len(x), device=x.device)
    mates = same & (rows[:, None] != rows)
    inf = math.inf
    if self.positive == 'easy':
      d_ap, p = dists.masked_fill(~mates, inf).min(1)
    else:
      d_ap, p = dists.masked_fill(~mates, -inf).max(1)
    others = dists.masked_fill(same, inf)
    n = others.argmin(1)
    if self.negative == 'semihard':
      low = d_ap[:, None]
      meets = (others > low) & (others < low + self.margin)
      chosen, semihard = others.masked_fill(~meets, inf).min(1)
      n = torch.where(chosen < inf, semihard, n)
    return p, n, mates.any(1) & ~same.all(1)


def library_triplet(policy: str, margin: float) -> Callable:
  """Makes the same as `Triplet`, of pytorch-metric-learning.

  An anchor without a semi-hard negative is dropped, not given another.
  """
  from pytorch_metric_learning import distances, losses, miners, reducers

  distance = distances.LpDistance(normalize_embeddings=False, power=2)
  positive, negative = policy.split('+')
  miner = miners.BatchEasyHardMiner(
    pos_strategy=positive, neg_strategy=negative, distance=distance
  )
  objective = losses.TripletMarginLoss(
    margin=margin, distance=distance, reducer=reducers.MeanReducer()
  )
  return lambda x, labels: objective(x, labels, miner(x, labels))


class ArcFace(nn.Module):
  """Cross-entropy of scaled cosines with an angular margin at the truth."""

  def __init__(self, classes: int, dim: int, margin: float, scale: float):
    super().__init__()
    self.prototypes = nn.Parameter(torch.randn(classes, dim))
    self.margin, self.scale = margin, scale

  def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    cos = x @ functional.normalize(self.prototypes).T
    own = cos.gather(1, labels[:, None])
    sin = (1 - own.square()).clamp_min(1e-6).sqrt()
    inside = own * math.cos(self.margin) - sin * math.sin(self.margin)
    beyond = own - self.margin * math.sin(self.margin)
    moved = torch.where(own > -math.cos(self.margin), inside, beyond)
    logits = cos.scatter(1, labels[:, None], moved)
    return functional.cross_entropy(self.scale * logits, labels)
