"""The models at their true sizes: as bytes, and as layers without numbers."""

from functools import lru_cache
from math import prod

import gguf
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from worker.pipeline.packed import PackedEmbedding, PackedLinear
from worker.pipeline.peaks import FULL_SIZE
from worker.pipeline.weights.flux_shapes import Naming, Shapes, expected_shapes
from worker.pipeline.weights.gguf_types import GgufType, type_of
from worker.pipeline.weights.t5_names import encoder_shapes

TYPES = {each.name: each for each in map(type_of, range(31)) if each is not None}
META = torch.device("meta")


def stored_bytes(shapes: Shapes, stored_as: GgufType) -> int:
    """Sum up tensors whose matrices are stored like this, and whose vectors are bfloat16."""
    return sum(
        prod(shape) // stored_as.block_elements * stored_as.block_bytes
        if len(shape) > 1
        else prod(shape) * 2
        for shape in shapes.values()
    )


def transformer_bytes(stored_as: str) -> int:
    return stored_bytes(expected_shapes(FULL_SIZE.flux, Naming.ORIGINAL), TYPES[stored_as])


def encoder_bytes(stored_as: str) -> int:
    return stored_bytes(encoder_shapes(FULL_SIZE.t5), TYPES[stored_as])


def number_bytes(model: nn.Module) -> int:
    """Sum up a model whose numbers are bfloat16."""
    return 2 * sum(parameter.numel() for parameter in model.parameters())


def a_clip() -> CLIPTextModel:
    with META:
        return CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                vocab_size=49408,
            )
        )


def a_vae() -> AutoencoderKL:
    with META:
        return AutoencoderKL(
            block_out_channels=FULL_SIZE.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            sample_size=1024,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).to(torch.bfloat16)


@lru_cache
def a_transformer(stored_as: str) -> FluxTransformer2DModel:
    """One block of each kind: what they hold is free again before the next ones begin."""
    with META:
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    type_ = TYPES[stored_as]
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not module.in_features % type_.block_elements:
            packed = GGUFLinear(
                module.in_features,
                module.out_features,
                module.bias is not None,
                compute_dtype=torch.bfloat16,
                device=META,
            )
            packed.weight = packed_matrix(stored_as, (module.out_features, module.in_features))
            packed.bias = module.bias
            _replace(model, name, packed)
    return model.eval()


def packed_matrix(stored_as: str, shape: tuple[int, int]) -> GGUFParameter:
    raw = _raw(shape, TYPES[stored_as]).reshape(shape[0], -1)
    return GGUFParameter(raw, quant_type=gguf.GGMLQuantizationType[stored_as])


@lru_cache
def an_encoder(stored_as: str | None) -> T5EncoderModel:
    """Two of T5-XXL's blocks, packed or plain."""
    sizes = FULL_SIZE.t5
    config = T5Config(
        vocab_size=sizes.words,
        d_model=sizes.width,
        d_ff=sizes.wide,
        d_kv=sizes.head_width,
        num_heads=sizes.heads,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        use_cache=False,
        is_encoder_decoder=False,
    )
    with META:
        model = T5EncoderModel(config).to(torch.bfloat16)
    if stored_as is None:
        return model.eval()
    type_ = TYPES[stored_as]
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            shape = (module.out_features, module.in_features)
            _replace(model, name, PackedLinear(_raw(shape, type_), shape, type_))
    shape = (sizes.words, sizes.width)
    words = PackedEmbedding(_raw(shape, type_), shape, type_, dtype=torch.bfloat16)
    model.set_input_embeddings(words)
    return model.eval()


def _raw(shape: tuple[int, ...], type_: GgufType) -> torch.Tensor:
    size = prod(shape) // type_.block_elements * type_.block_bytes
    return torch.empty(size, dtype=torch.uint8, device=META)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
