"""Small T5 encoders in files: packed as GGUF, and the same numbers unpacked for transformers."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from transformers import T5EncoderModel

from shared.manifest import Role
from worker.pipeline.text_encoder import load_packed_encoder
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.t5_names import (
    EMBEDDING,
    POSITIONS,
    T5Sizes,
    encoder_shapes,
    transformers_names,
)

Type = gguf.GGMLQuantizationType
Numbers = npt.NDArray[np.float32]

# K-quants share 256 numbers per block, so 256 is the least that a row may have
SIZES = T5Sizes(words=300, width=256, wide=512, heads=8, head_width=32, layers=2, buckets=32)
WRITABLE = [Type[name] for name in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "BF16", "F16", "F32")]
# What gguf can read but not write, with the places of the float16 scales in a block's bytes.
SCALES = {
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208,),
    Type.IQ4_NL: (0,),
    Type.IQ4_XS: (0,),
}
EVERY_TYPE = [*WRITABLE, *SCALES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A tensor as it lies in a file, with the shape that it decodes to."""

    raw: npt.NDArray[Any]
    type: Type
    shape: tuple[int, ...]

    @property
    def numbers(self) -> Numbers:
        """What the gguf package decodes the bytes to."""
        decoded = gguf.quants.dequantize(self.raw, self.type)
        return np.ascontiguousarray(decoded, dtype=np.float32).reshape(self.shape)


def packed(shape: tuple[int, ...], type_: Type, chance: np.random.Generator) -> Packed:
    """Draw a tensor whose rows neither grow nor shrink what they are multiplied with."""
    size = 1 / math.sqrt(shape[-1])
    if type_ in SCALES:
        raw = _random_blocks(shape, type_, 1.0, chance)
        unit = float(gguf.quants.dequantize(raw, type_).std())
        raw = _random_blocks(shape, type_, size / unit, chance)
    else:
        raw = gguf.quantize(size * chance.standard_normal(shape, dtype=np.float32), type_)
    return Packed(raw=raw, type=type_, shape=shape)


def an_encoder(
    choose: Callable[[str], Type] = lambda name: Type.Q8_0, *, sizes: T5Sizes = SIZES
) -> dict[str, Packed]:
    """Draw all tensors under llama.cpp's names; `choose` gives the type of each matrix."""
    chance = np.random.default_rng(7)
    tensors = {}
    for name, shape in encoder_shapes(sizes).items():
        plain = len(shape) == 1 or name == POSITIONS
        tensors[name] = packed(shape, Type.F32 if plain else choose(name), chance)
    for name in tensors:
        if name.endswith("norm.weight"):
            near_one = 1 + 0.1 * chance.standard_normal(tensors[name].shape, dtype=np.float32)
            tensors[name] = Packed(raw=near_one, type=Type.F32, shape=near_one.shape)
    return tensors


def write_packed(
    directory: Path,
    tensors: Mapping[str, Packed],
    *,
    sizes: T5Sizes = SIZES,
    architecture: str = "t5encoder",
) -> Path:
    """Write config and GGUF file into a weights directory that has nothing else."""
    folder = directory / Role.TEXT_ENCODER_2
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(sizes)))
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.raw, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


def config_of(sizes: T5Sizes) -> dict[str, Any]:
    """Configure an encoder as the one of FLUX is: with dropout, which must not show."""
    return {
        "architectures": ["T5EncoderModel"],
        "d_ff": sizes.wide,
        "d_kv": sizes.head_width,
        "d_model": sizes.width,
        "dropout_rate": 0.1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "model_type": "t5",
        "num_heads": sizes.heads,
        "num_layers": sizes.layers,
        "relative_attention_num_buckets": sizes.buckets,
        "tie_word_embeddings": False,
        "vocab_size": sizes.words,
    }


def load(
    directory: Path, tensors: Mapping[str, Packed], dtype: torch.dtype = torch.float32
) -> T5EncoderModel:
    """Write an encoder into a directory and load it packed."""
    return load_file(write_packed(directory, tensors), dtype)


def load_file(file: Path, dtype: torch.dtype = torch.float32) -> T5EncoderModel:
    """Load the encoder that `write_packed` wrote."""
    return load_over(file, np.fromfile(file, dtype=np.uint8), dtype)


def load_over(
    file: Path, octets: npt.NDArray[np.uint8], dtype: torch.dtype = torch.float32
) -> T5EncoderModel:
    """Load an encoder over the bytes of its file."""
    header = read_header(file)
    raw = {
        name: torch.from_numpy(octets[tensor.offset : tensor.offset + tensor.bytes])
        for name, tensor in header.tensors.items()
    }
    return load_packed_encoder(file.parent.parent, header, raw, dtype=dtype)


def unpacked(directory: Path, tensors: Mapping[str, Packed], dtype: torch.dtype) -> T5EncoderModel:
    """Decode with the gguf package and load with transformers: nothing of ours is in it."""
    sizes = SIZES
    names = transformers_names(sizes.layers)
    folder = directory / "unpacked"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(sizes)))
    numbers = {names[name]: tensor.numbers for name, tensor in tensors.items() if name in names}
    save_file(numbers, folder / "model.safetensors", metadata={"format": "pt"})
    model = T5EncoderModel.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    return model.eval()


def some_words(*, batch: int = 1, length: int = 512) -> torch.Tensor:
    """Draw ids of a prompt that is padded to the end, as the pipeline's tokenizer pads it."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(3, SIZES.words, (batch, length), generator=chance)
    for row in range(batch):
        end = 9 + 5 * row
        ids[row, end] = 1
        ids[row, end + 1 :] = 0
    return ids


def encode(model: T5EncoderModel, ids: torch.Tensor) -> torch.Tensor:
    """Encode as `_get_t5_prompt_embeds` does: no mask, the first thing that is returned."""
    with torch.no_grad():
        states: torch.Tensor = model(ids, output_hidden_states=False)[0]
    return states


def mixed_types(name: str) -> Type:
    """Choose as the files people download do: better types where they matter more."""
    if name == EMBEDDING:
        return Type.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        return Type.Q5_K
    return Type.BF16 if name.startswith("enc.blk.1.attn_o") else Type.Q4_K


def _random_blocks(
    shape: tuple[int, ...], type_: Type, scale: float, chance: np.random.Generator
) -> npt.NDArray[np.uint8]:
    elements, size = gguf.GGML_QUANT_SIZES[type_]
    count = math.prod(shape) // elements
    blocks = chance.integers(0, 256, (count, size), dtype=np.uint8)
    for place in SCALES[type_]:
        # any bytes are valid numbers but those of the scales, which could be infinite
        scales = (scale * chance.standard_normal(count)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks.reshape(shape[0], -1)
