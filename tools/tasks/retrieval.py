"""Definitions, and the words that they define."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.runtime.session import run
from tasks.task import Outcome, Task, fetched, need, share

CANDIDATES = 1000  # answers that a query is searched among


class Retrieval(Task):
    """Sentence embeddings: the words that a definition defines, among those of all definitions here."""

    metric = "top-1 retrieval"

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        """(definition, words) of nouns with at least two words, none with another meaning, in the order of a hash."""
        glosses: dict[tuple[str, ...], str] = {}
        meanings: Counter[str] = Counter()
        for line in fetched("wordnet", "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            facts, gloss = line.split(" | ", 1)
            fields = facts.split()
            words = tuple(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
            meanings.update(words)
            if len(words) > 1 and all(word.islower() for word in words):
                glosses[words] = gloss.strip()
        pairs = [
            (gloss, ", ".join(words).replace("_", " "))
            for words, gloss in glosses.items()
            if all(meanings[word] == 1 for word in words)
        ]
        return sorted(pairs, key=lambda pair: hashlib.sha256(pair[1].encode()).digest())

    @cached_property
    def _data(self) -> list[tuple[str, str]]:
        return self._pairs[: 4 * CANDIDATES]

    @cached_property
    def _tokenizer(self) -> Any:
        need("tokenizers")
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        # This package writes BERT's own list with a mark before what starts a word, in place of ## before the rest.
        pieces = json.loads(fetched("bert-vocabulary", "vocab.json").read_text(encoding="utf-8"))
        vocabulary = {
            piece if piece.startswith("[") and len(piece) > 2 else piece[1:] if piece[:1] == "▁" else f"##{piece}": i
            for i, piece in enumerate(pieces)
        }
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(*((t, vocabulary[t]) for t in ("[SEP]", "[CLS]")))
        tokenizer.enable_truncation(128)
        tokenizer.enable_padding(pad_id=vocabulary["[PAD]"], pad_token="[PAD]")
        return tokenizer

    def _feeds(self, texts: list[str]) -> dict[str, np.ndarray]:
        encoded = self._tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([e.ids for e in encoded], np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        }

    def _embed(self, session: Any, texts: list[str]) -> np.ndarray:
        """Unit vectors [text, 384]: the mean of the tokens' vectors."""
        tokens = next(o.name for o in session.get_outputs() if len(o.shape) == 3)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        vectors = np.empty((len(texts), 384), np.float32)
        for at in range(0, len(order), 32):
            batch = order[at : at + 32]
            feeds = self._feeds([texts[i] for i in batch])
            vectors[batch] = np.einsum("btv,bt->bv", run(session, feeds)[tokens], feeds["attention_mask"])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _score(self, session: Any) -> Outcome:
        queries, answers = (self._embed(session, list(texts)) for texts in zip(*self._data, strict=True))
        blocks = [slice(at, at + CANDIDATES) for at in range(0, len(queries), CANDIDATES)]
        nearest = np.concatenate([(queries[b] @ answers[b].T).argmax(1) + b.start for b in blocks])
        return Outcome(share(nearest == np.arange(len(nearest))), nearest.tolist())

    def _unscored(self, count: int) -> dict[str, np.ndarray]:
        held = self._pairs[self.samples : self.samples + count]
        return self._feeds([pair[i % 2] for i, pair in enumerate(held)])
