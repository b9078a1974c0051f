"""A linear head on frozen DINOv2 features, the first thing to compare with.

python launch.py --config=configs/frozen.py --workdir=runs/frozen \\
  --config.encoder.pretrained=FILE

docs/pretrained.md says where FILE is from. Adapts the features by LoRA too, if
--config.encoder.lora_rank=8 --config.optimizer.encoder_rate=0.3 are added.
"""

from ml_collections import ConfigDict

from configs import softmax


def get_config(preset: str = 'synthetic') -> ConfigDict:
  config = softmax.get_config(preset)
  config.epochs = 10
  config.validations_per_epoch = 1
  config.early_stop_validations = 0
  config.data.size = 112  # 8 x 8 patches of 14 px
  config.batch.sampling = 'uniform'  # small classes as often as large ones
  config.encoder.name = 'vit_small_patch14_dinov2'
  config.encoder.freeze = 12  # every block
  config.optimizer.weight_decay = 0.05
  return config
