"""The transformer's attention while it is taught on a CPU: in fp32 beside bf16 everywhere else.

CPUs multiply matrices faster in bf16, but torch's fused attention and norms of a CPU are slower in
it, backwards above all; and what turns is turned by one product of complex numbers.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class PreciseAttention:
    """What diffusers' processor computes, from the norms of queries and keys on in fp32."""

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
        query, key = _normed(attn.norm_q, query), _normed(attn.norm_k, key)
        words = 0
        if encoder_hidden_states is not None:
            words = encoder_hidden_states.shape[1]
            added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            of_words = [_by_head(layer(encoder_hidden_states), attn) for layer in added]
            query = torch.cat([_normed(attn.norm_added_q, of_words[0]), query], dim=1)
            key = torch.cat([_normed(attn.norm_added_k, of_words[1]), key], dim=1)
            value = torch.cat([of_words[2], value], dim=1)
        turns = _turns(image_rotary_emb)
        found = _attended(_turned(query, turns), _turned(key, turns), value)
        found = found.to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return found
        output, dropout = attn.to_out
        return dropout(output(found[:, words:])), attn.to_add_out(found[:, :words])


def _by_head(projected: torch.Tensor, attn: Any) -> torch.Tensor:
    return projected.float().unflatten(-1, (attn.heads, -1))


def _normed(norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
    with torch.autocast(states.device.type, enabled=False):
        normed: torch.Tensor = norm(states)
    return normed


def _turns(rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Make what the pipeline gives, cosines and sines each said twice, numbers to multiply with."""
    cosines, sines = (each[:, ::2].float() for each in rotary)
    return torch.complex(cosines, sines)[None, :, None]


def _turned(states: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    by_head = [each.transpose(1, 2) for each in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        found: torch.Tensor = functional.scaled_dot_product_attention(*by_head)
    return found.transpose(1, 2).flatten(2)
