"""The transformer's attention while it is taught on a CPU: in fp32 beside bf16 everywhere else.

CPUs multiply matrices faster in bf16, but torch's fused attention of a CPU is slower in it,
backwards above all.
"""

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch.nn import functional


class PreciseAttention:
    """What diffusers' processor computes, the scores and their gradients in fp32."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attend to the words and all pictures together; gives the pictures' part first."""
        layers = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (_by_head(layer(hidden_states), attn) for layer in layers)
        query, key = attn.norm_q(query), attn.norm_k(key)
        words = 0
        if encoder_hidden_states is not None:
            words = encoder_hidden_states.shape[1]
            added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            of_words = [_by_head(layer(encoder_hidden_states), attn) for layer in added]
            query = torch.cat([attn.norm_added_q(of_words[0]), query], dim=1)
            key = torch.cat([attn.norm_added_k(of_words[1]), key], dim=1)
            value = torch.cat([of_words[2], value], dim=1)
        query = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        found = _attended(query, key, value)
        if encoder_hidden_states is None:
            return found
        output, dropout = attn.to_out
        return dropout(output(found[:, words:])), attn.to_add_out(found[:, :words])


def _by_head(projected: torch.Tensor, attn: Any) -> torch.Tensor:
    return projected.unflatten(-1, (attn.heads, -1))


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    precise = [each.float().transpose(1, 2) for each in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        found: torch.Tensor = functional.scaled_dot_product_attention(*precise)
    return found.transpose(1, 2).flatten(2).to(value.dtype)
