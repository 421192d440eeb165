# SPDX-License-Identifier: Apache-2.0
"""Every key of a run with its default. A config file sets what its recipe changes.

Any key can be set on the command line: `--config.optimizer.learning_rate=3e-4`. Keys under
`model.backbone`, `model.neck`, `model.head` and `model.auxiliary_head` are unset here, which means
"as `model.variant` has it" (`dpt_jax/models/variants.py`).
"""

import ml_collections
from ml_collections.config_dict import placeholder


def default() -> ml_collections.ConfigDict:
    """The config that recipes start from; lengths in steps, depths in metres, sizes in pixels."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of parameters, order of examples, augmentations, dropout

    # Weights to start from: a checkpoint of the same encoder, or of a whole DPT, or a workdir.
    c.init_from = placeholder(str)

    c.model = ml_collections.ConfigDict()
    c.model.variant = "dpt_base"  # a row of dpt_jax/models/variants.py
    c.model.dtype = "float32"  # computed in; or "bfloat16". Parameters are float32
    c.model.backbone = _unset(
        type=str,  # vit, hybrid, dinov2, beit, swinv2
        out_indices=tuple,
        image_size=int,
        patch_size=int,
        num_channels=int,
        hidden_size=int,
        num_hidden_layers=int,
        num_attention_heads=int,
        intermediate_size=int,  # vit, hybrid, beit
        mlp_ratio=float,  # dinov2, swinv2
        hidden_act=str,
        hidden_dropout_prob=float,
        attention_probs_dropout_prob=float,
        drop_path_rate=float,  # dinov2, beit, swinv2
        initializer_range=float,
        layer_norm_eps=float,
        qkv_bias=bool,  # vit, hybrid, dinov2, swinv2
        layerscale_value=float,  # dinov2
        use_swiglu_ffn=bool,  # dinov2
        num_register_tokens=int,  # dinov2
        apply_layernorm=bool,  # dinov2
        interpolate_offset=float,  # dinov2
        interpolate_antialias=bool,  # dinov2
        use_absolute_position_embeddings=bool,  # beit
        use_relative_position_bias=bool,  # beit
        use_shared_relative_position_bias=bool,  # beit
        layer_scale_init_value=float,  # beit
        embed_dim=int,  # swinv2
        depths=tuple,  # swinv2
        num_heads=tuple,  # swinv2
        window_size=int,  # swinv2
        pretrained_window_sizes=tuple,  # swinv2
        mask_value=float,  # swinv2
    )
    c.model.backbone.bit = _unset(  # the ResNet of hybrid
        embedding_size=int,
        hidden_sizes=tuple,
        depths=tuple,
        layer_type=str,  # bottleneck, preactivation
        hidden_act=str,
        global_padding=str,  # SAME, VALID, SYMMETRIC
        num_groups=int,
        drop_path_rate=float,
        embedding_dynamic_padding=bool,
        width_factor=float,
        standardization=str,  # variance, deviation
    )
    c.model.neck = _unset(
        type=str,  # dpt
        hidden_sizes=tuple,
        reassemble_factors=tuple,
        readout_type=str,  # ignore, add, project
        fusion_hidden_size=int,
        use_batch_norm_in_fusion_residual=bool,
        use_bias_in_fusion_residual=bool,
        upsample_to_skip=bool,
        hidden_act=str,
    )
    c.model.head = _unset(
        type=str,  # depth, segmentation
        head_in_index=int,
        add_projection=bool,  # depth
        head_hidden_size=int,  # depth
        upsample_to_input=bool,  # depth
        activation=str,  # depth: relu, sigmoid
        max_depth=float,  # depth with sigmoid: metres
        scale=float,  # depth with relu
        shift=float,  # depth with relu
        invert=bool,  # depth with relu
        num_labels=int,  # segmentation
        dropout=float,  # segmentation
    )
    c.model.auxiliary_head = _unset(use=bool, dropout=float, head_in_index=int)

    c.data = ml_collections.ConfigDict()
    # rooms, ade20k, nyuv2, nyuv2_mat, nyuv2_tfds, kitti, pascal_context, cityscapes, folder
    c.data.source = "rooms"
    c.data.root = placeholder(str)  # folder of the data set, or of its prepared copy
    c.data.description = placeholder(str)  # folder: path of dataset.json, if not in root
    c.data.lists = _unset(train=str, validation=str)  # nyuv2, kitti: instead of the lists in root
    c.data.nyuv2_mat = ml_collections.ConfigDict({"depth": "raw"})  # raw, filled
    c.data.pascal_context = ml_collections.ConfigDict({"background": False})  # as a 60th class
    c.data.rooms = ml_collections.ConfigDict(
        {"size": (96, 128), "train_length": 100_000, "validation_length": 100, "seed": 0}
    )
    c.data.mean = (0.5, 0.5, 0.5)  # of pixels in 0..1
    c.data.std = (0.5, 0.5, 0.5)
    c.data.threads = 2  # that decode and augment ahead, where there are no workers
    c.data.workers = 0  # processes that do so instead
    c.data.prefetch = placeholder(int)  # batches held ahead, in all; 2 per thread or 4 per worker
    c.data.on_error = "strict"  # unreadable training examples stop the run; or "quarantine"
    c.data.max_quarantined = 20  # so many different ones the run goes on without
    c.data.quarantine = placeholder(str)  # file of names of training examples not to be read
    # A recipe of dpt_jax/data/transforms/recipes.py, e.g. mmseg_ade20k; without one, flips of
    # probability 0.5. The other keys override it; 0, "" and () switch a step off.
    c.data.augment = _unset(
        recipe=str,
        box=tuple,  # top, bottom, left, right
        scale=tuple,  # low, high: factors of the image, or of the next two
        long_side=int,  # of the result, pixels
        within=tuple,  # long, short side of what the result fits into, pixels
        at_least=int,  # both sides of the result, pixels
        multiple_of=int,  # both sides with at_least
        kernel=str,  # pillow_bilinear, opencv_linear, opencv_cubic
        rotate=float,  # degrees
        crop=tuple,  # height, width
        cat_max_ratio=float,  # most of a crop that one class may cover; 1 is off
        flip=float,  # probability
        photometric=str,  # mmseg, bts, bts_kitti
        fill=tuple,  # colour of what is padded to the size of the crop, bytes
    )

    c.loss = ml_collections.ConfigDict()
    c.loss.auxiliary_weight = 0.4  # segmentation
    c.loss.name = "silog"  # depth: silog, eigen
    c.loss.variance_focus = 0.85  # depth: lambda
    c.loss.weight = 10.0  # depth
    c.loss.min_depth = 1e-3  # depth: targets outside do not count
    c.loss.max_depth = 10.0

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # adamw, sgd
    c.optimizer.learning_rate = 1e-4
    c.optimizer.schedule = "poly"  # poly, cosine
    c.optimizer.power = 0.9  # of poly
    c.optimizer.warmup_steps = 0
    c.optimizer.end_factor = 0.0  # last learning rate / first
    c.optimizer.weight_decay = 0.01
    # Regular expressions over parameter names that are not decayed.
    c.optimizer.no_weight_decay = (
        r"(bias|scale)$",
        r"(cls_token|register_tokens|position_embeddings|relative_position_bias_table)$",
        r"(lambda1|lambda_1|lambda_2|logit_scale)$",
        r"continuous_position_bias_mlp",
    )
    # (regular expression, factor) on the learning rate; the first that matches counts.
    c.optimizer.multipliers = ((r"^backbone/", 0.1),)
    c.optimizer.clip_norm = placeholder(float)
    c.optimizer.beta1 = 0.9  # adamw
    c.optimizer.beta2 = 0.999
    c.optimizer.eps = 1e-8
    c.optimizer.momentum = 0.9  # sgd

    c.train = ml_collections.ConfigDict()
    c.train.steps = 1000
    c.train.batch_size = 16  # of all devices together
    c.train.log_every = 50
    c.train.evaluate_every = 1000
    c.train.checkpoint_every = 500
    c.train.max_nonfinite = 3  # steps in a row without an update, then stop

    c.eval = ml_collections.ConfigDict()
    c.eval.batch_size = 8  # of all devices together; does not change the numbers
    c.eval.limit = placeholder(int)  # images of the evaluations during training; None is all
    c.eval.size = placeholder(int)  # network input; None leaves images as they are
    c.eval.keep_aspect_ratio = True
    c.eval.multiple_of = 32
    c.eval.min_depth = 1e-3
    c.eval.max_depth = 10.0
    c.eval.baseline_images = 0  # training images for the trivial baseline; 0 leaves it out

    c.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})  # -1: the rest of the devices
    return c


def _unset(**types: type) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({key: placeholder(kind) for key, kind in types.items()})
