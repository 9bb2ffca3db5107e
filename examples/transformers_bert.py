"""Hugging Face transformers: BERT for sequence classification, contrast over its labels, padding and all."""

import torch
from transformers import BertConfig, BertForSequenceClassification

import gradfast

config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3)  # fmt: skip
model = BertForSequenceClassification(config).eval()
tokens = {"input_ids": torch.randint(1, 100, (4, 12)), "attention_mask": torch.ones(4, 12, dtype=torch.long)}
tokens["attention_mask"][0, 8:] = 0
norms = gradfast.grad_norms(model, tokens, layers=["bert.encoder", "classifier"])
print(norms.values.sum(-1))  # [4 texts, 3 labels]
