"""Recipes of a tiny experiment on real digits that runs in seconds."""

RECIPES = {
    "tiny_pretrain.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {
            "width": 16,
            "multipliers": [1, 2],
            "layers_per_block": 1,
            "attention_resolutions": [],
            "mid_attention": False,
            "dropout": 0.1,
            "norm_groups": 4,
        },
        "training": {"optimizer": "adamw", "num_steps": 12, "lr": 1e-3, "schedule": "one_cycle", "ema_decay": 0.9},
    },
    "tiny_dit_pretrain.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {"family": "dit", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8},
        "training": {"optimizer": "adamw", "num_steps": 12, "lr": 1e-3, "schedule": "one_cycle", "ema_decay": 0.9},
    },
    "tiny_classifier.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 32},
        "classifier": {"name": "test_resnet", "image_size": 32},
        "training": {"num_steps": 8, "lr": 1e-3, "max_shift": 1},
    },
    "tiny.yaml": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {"pretrain": "tiny_pretrain.yaml"},
        "method": {
            "name": "sfron",
            "num_steps": 6,
            "forget_lr": 3e-4,
            "retain_lr": 1e-4,
            "mask": {"kind": "fisher_ratio", "threshold": 1.5, "estimator": "plain", "num_batches": 2},
        },
        "sampling": {"num_inference_steps": 3, "seeds": "0-3", "batch_size": 4},
        "evaluation": {
            "protocol": "seeds",
            "classifier": "tiny_classifier.yaml",
            "min_accuracy": 0,
            "features": "classifier",
        },
    },
}
