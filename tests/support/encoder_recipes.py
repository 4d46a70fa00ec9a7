"""Public recipes of pathology encoders: how their makers, or tools that use them, build and feed them.

Written apart from the cards, in timm's, transformers' and torchvision's own terms, so that a card can be compared
with one. `few` blocks make a narrow copy.
"""

from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
import transformers
from torch import nn
from torchvision import transforms as T

BILINEAR, BICUBIC = T.InterpolationMode.BILINEAR, T.InterpolationMode.BICUBIC
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
SWIGLU = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}


class Recipe(NamedTuple):
    """One encoder."""

    network: Callable[..., nn.Module]
    """Takes what makes it narrow."""
    vector: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    transform: Callable
    millions: float
    """Weights, as published, in millions."""
    few: dict


def steps(scaling, *, resize=None, crop=None, how=BILINEAR):
    """Torchvision's steps for one picture."""
    made = [] if resize is None else [T.Resize(resize, interpolation=how)]
    made += [] if crop is None else [T.CenterCrop(crop)]
    return T.Compose([*made, T.ToTensor(), T.Normalize(*scaling)])


def of_timm(name, **arguments):
    return lambda **few: timm.create_model(name, pretrained=False, num_classes=0, **{**arguments, **few})


def of_transformers(kind, **arguments):
    def make(**few):
        cls = getattr(transformers, kind)
        config = cls.config_class(**{**arguments, **few})
        return cls(config, add_pooling_layer=False) if kind == "ViTModel" else cls(config)

    return make


def whole(network, x):
    return network(x)


def class_and_mean(first):
    """Class token, and the mean of the tokens from `first` on."""

    def vector(network, x):
        tokens = network(x)
        return torch.cat([tokens[:, 0], tokens[:, first:].mean(1)], dim=-1)

    return vector


def hidden(network, x):
    return network(pixel_values=x).last_hidden_state[:, 0, :]


def hidden_and_mean(network, x):
    tokens = network(x).last_hidden_state
    return torch.cat([tokens[:, 0, :], tokens[:, 1:, :].mean(1)], dim=-1)


def image_features(network, x):
    return network.visual_projection(network.vision_model(pixel_values=x).pooler_output)


def stage(network, x):
    return nn.AdaptiveAvgPool2d(1)(network(x)[0]).squeeze(-1).squeeze(-1)


ONE, ONE_LAYER = {"depth": 1}, {"num_hidden_layers": 1}
NARROW_CLIP = {
    "vision_config": {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2},
    "text_config": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2},
}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
PLAIN = steps(IMAGENET, resize=224, crop=224)
CUBIC = steps(IMAGENET, resize=224, how=BICUBIC)
VIRCHOW = {
    "img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True, **SWIGLU,
}  # fmt: skip
OPTIMUS = of_timm("vit_giant_patch14_reg4_dinov2", img_size=224, init_values=1e-5, dynamic_img_size=False)
HIBOUS = {"patch_size": 14, "image_size": 224, "num_register_tokens": 4, "use_swiglu_ffn": True}
HIBOU_STEPS = steps(HIBOU, resize=(224, 224), crop=(224, 224), how=BICUBIC)

RECIPES = {
    "uni": Recipe(of_timm("vit_large_patch16_224", init_values=1e-5, dynamic_img_size=True), whole, PLAIN, 303.4, ONE),
    "uni2-h": Recipe(
        of_timm(
            "vit_giant_patch14_224", img_size=224, patch_size=14, depth=24, num_heads=24, init_values=1e-5,
            embed_dim=1536, mlp_ratio=2.66667 * 2, no_embed_class=True, reg_tokens=8, dynamic_img_size=True, **SWIGLU,
        ),
        whole, PLAIN, 681.4, ONE,
    ),
    "virchow": Recipe(of_timm("vit_huge_patch14_224", **VIRCHOW), class_and_mean(1), CUBIC, 631.2, ONE),
    "virchow2": Recipe(
        of_timm("vit_huge_patch14_224", reg_tokens=4, **VIRCHOW), class_and_mean(5), CUBIC, 631.2, ONE
    ),
    "prov-gigapath": Recipe(
        of_timm(
            "vit_giant_patch14_dinov2", img_size=224, patch_size=16, embed_dim=1536, depth=40, num_heads=24,
            mlp_ratio=5.33334, init_values=1e-5, dynamic_img_size=True,
        ),
        whole, steps(IMAGENET, resize=256, crop=224, how=BICUBIC), 1135.0, ONE,
    ),
    "h-optimus-0": Recipe(OPTIMUS, whole, steps(HOPTIMUS), 1134.8, ONE),
    "h-optimus-1": Recipe(OPTIMUS, whole, steps(HOPTIMUS), 1134.8, ONE),
    "h0-mini": Recipe(
        of_timm(
            "vit_base_patch14_reg4_dinov2", img_size=224, init_values=1e-5, mlp_ratio=5.33334, global_pool="", **SWIGLU
        ),
        class_and_mean(5), steps(HOPTIMUS, resize=224, crop=224, how=BICUBIC), 85.7, ONE,
    ),
    "phikon": Recipe(
        of_transformers("ViTModel", layer_norm_eps=1e-6, **BASE), hidden, steps(IMAGENET, resize=(224, 224)), 85.8,
        ONE_LAYER,
    ),
    "phikon-v2": Recipe(
        of_transformers("Dinov2Model", image_size=224, patch_size=16, **LARGE), hidden, CUBIC, 303.4, ONE_LAYER
    ),
    "hibou-b": Recipe(
        of_transformers("Dinov2WithRegistersModel", **BASE, **HIBOUS), hidden, HIBOU_STEPS, 85.7, ONE_LAYER
    ),
    "hibou-l": Recipe(
        of_transformers("Dinov2WithRegistersModel", **LARGE, **HIBOUS), hidden, HIBOU_STEPS, 303.7, ONE_LAYER
    ),
    "midnight-12k": Recipe(
        of_transformers(
            "Dinov2Model", hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, image_size=518,
            patch_size=14, use_swiglu_ffn=True,
        ),
        hidden_and_mean, steps(HALF, resize=224, crop=224), 1136.5, ONE_LAYER,
    ),
    "gpfm": Recipe(
        of_timm("vit_large_patch14_dinov2", img_size=224, init_values=1e-5, dynamic_img_size=True), whole,
        steps(IMAGENET, resize=(224, 224), how=BICUBIC), 303.2, ONE,
    ),
    "ctranspath": None,
    "retccl": Recipe(of_timm("resnet50"), whole, steps(IMAGENET, resize=256), 23.5, {"layers": (1, 1, 1, 1)}),
    "plip": Recipe(
        of_transformers("CLIPModel", projection_dim=512), image_features,
        steps(CLIP, resize=224, crop=224, how=BICUBIC), 151.3, NARROW_CLIP,
    ),
    "resnet50.imagenet": Recipe(
        of_timm("resnet50", features_only=True, out_indices=(3,)), stage, PLAIN, 8.5, {}
    ),
    "kaiko-vitl14": Recipe(
        of_timm("vit_large_patch14_reg4_dinov2", dynamic_img_size=True), whole,
        steps(HALF, resize=224, crop=224), 304.4, ONE,
    ),
}  # fmt: skip
for _short, _name, _millions in (
    ("s16", "vit_small_patch16_224", 21.7), ("s8", "vit_small_patch8_224", 21.7), ("b16", "vit_base_patch16_224", 85.8),
    ("b8", "vit_base_patch8_224", 85.8),
):  # fmt: skip
    _kaiko = steps(HALF, resize=224, crop=224)
    RECIPES[f"kaiko-vit{_short}"] = Recipe(of_timm(_name, dynamic_img_size=True), whole, _kaiko, _millions, ONE)
    if _short.startswith("s"):
        RECIPES[f"lunit-vit{_short}"] = Recipe(of_timm(_name), whole, steps(LUNIT), _millions, ONE)
for _way in ("bt", "swav", "mocov2"):
    RECIPES[f"lunit-resnet50-{_way}"] = RECIPES["retccl"]._replace(transform=steps(LUNIT))
for _short, _name, _millions in (
    ("s", "small", 22.1),
    ("b", "base", 86.6),
    ("l", "large", 304.4),
    ("g", "giant", 1136.5),
):
    RECIPES[f"dinov2-{_short}"] = Recipe(
        of_timm(f"vit_{_name}_patch14_dinov2", dynamic_img_size=True), whole,
        steps(IMAGENET, resize=224, crop=224, how=BICUBIC), _millions, ONE,
    )  # fmt: skip
for _short, _name, _millions in (("s", "small", 21.6), ("b", "base", 85.6), ("l", "large", 303.1)):
    RECIPES[f"dinov3-{_short}"] = Recipe(
        of_timm(f"vit_{_name}_patch16_dinov3", global_pool="token"), whole,
        steps(IMAGENET, resize=256, crop=256, how=BICUBIC), _millions, ONE,
    )  # fmt: skip
del RECIPES["ctranspath"]
