"""The small text encoder: an instruction -> a vector, by its bytes.

Role: language for models too small to carry a language model. It has no table of tasks: any UTF-8 text has an embedding. Each model trains
its own. Depends on torch only.
"""

from __future__ import annotations

import torch
from torch import nn

MAX_BYTES = 128


class TextEncoder(nn.Module):
    """Byte embeddings, two convolutions, one attention layer, mean over the text. About 60 000 parameters at size 64."""

    def __init__(self, size: int = 64):
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(257, 32, padding_idx=256)
        self.convolution = nn.Sequential(nn.Conv1d(32, size, 5, padding=2), nn.GELU(), nn.Conv1d(size, size, 5, stride=2, padding=2))
        self.attention = nn.TransformerEncoderLayer(size, 4, 2 * size, dropout=0.0, batch_first=True, norm_first=True)
        self.position = nn.Parameter(torch.randn(MAX_BYTES // 2, size) * 0.02)
        self.norm = nn.LayerNorm(size)

    def forward(self, texts: list[str]) -> torch.Tensor:
        """(B,) texts -> (B, size). Longer texts are cut at 128 bytes, case and outer blanks do not matter."""
        device = self.position.device
        encoded = [text.strip().lower().encode()[:MAX_BYTES] for text in texts]
        tokens = torch.full((len(texts), MAX_BYTES), 256, dtype=torch.long, device=device)
        for row, text in enumerate(encoded):
            tokens[row, : len(text)] = torch.tensor(list(text), dtype=torch.long, device=device)
        hidden = self.convolution(self.embedding(tokens).transpose(1, 2)).transpose(1, 2) + self.position
        padding = tokens[:, ::2] == 256
        padding[:, 0] = False  # an empty text still has one position
        hidden = self.attention(hidden, src_key_padding_mask=padding)
        kept = (~padding).float().unsqueeze(-1)
        return self.norm((hidden * kept).sum(1) / kept.sum(1))
