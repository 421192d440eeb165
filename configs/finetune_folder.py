# SPDX-License-Identifier: Apache-2.0
"""Your own images, some two hundred of them, on one accelerator: metric depth or segmentation.

    hf download facebook/dinov2-small --local-dir dinov2-small
    python train.py --config configs/finetune_folder.py --config.data.root=FOLDER \
    --workdir runs/mine
    python train.py --config configs/finetune_folder.py:segmentation --config.data.root=FOLDER \
    --config.model.head.num_labels=3 --workdir runs/mine

`FOLDER` holds `images/`, `depth/` or `masks/`, and `dataset.json`, which says what the values mean;
see dpt_jax/data/sources/folder.py. Look at what `dpt-jax data check FOLDER` writes before training.

So few images teach a decoder but no encoder: start from a trained one. `init_from` is DINOv2-Small
here; a larger one is `--config.model.variant=dpt_dinov2_base` with its own `init_from`. For depth
beyond 10 metres set `model.head.max_depth`, `loss.max_depth` and `eval.max_depth` alike.

Images are resized to a short side of 518 pixels (for segmentation times 0.5 to 2), cut to 518 x 518
and flipped; the network sees whole images in evaluation. Depth is not changed by the resizing: all
images should be of one camera. AdamW with 5e-5, a tenth of it for the encoder, as Depth Anything V2
was tuned to metric depth; 2,000 steps of 8 are 80 passes over 200 images. Hardware: one accelerator
of 16 GB. Expected: depends on the data; nobody has run it in full yet.
"""

import ml_collections

from configs import common


def get_config(task: str = "depth") -> ml_collections.ConfigDict:
    """The config; `task` is "depth" or "segmentation", what follows the colon."""
    if task not in ("depth", "segmentation"):
        raise ValueError(f"configs/finetune_folder.py:{task}: the task is depth or segmentation")
    c = common.default()
    c.init_from = "dinov2-small"
    c.model.variant = "dpt_dinov2_small"
    c.model.dtype = "bfloat16"
    c.model.head.type = task
    c.data.source = "folder"
    c.data.mean = (0.485, 0.456, 0.406)  # of DINOv2
    c.data.std = (0.229, 0.224, 0.225)
    c.data.threads = 8
    if task == "depth":
        c.model.head.activation = "sigmoid"
        c.model.head.max_depth = 10.0
        c.data.augment.recipe = "depth_anything_metric"
    else:
        c.data.augment.recipe = "mmseg_ade20k"
        c.data.augment.within = (2072, 518)
        c.data.augment.crop = (518, 518)
    c.optimizer.learning_rate = 5e-5
    c.optimizer.warmup_steps = 100
    c.optimizer.clip_norm = 1.0
    c.train.steps = 2000
    c.train.batch_size = 8
    c.train.log_every = 20
    c.train.evaluate_every = 200
    c.train.checkpoint_every = 200
    c.eval.batch_size = 8
    c.eval.size = 518
    c.eval.multiple_of = 14
    return c
