"""Tiny models of transformers as people have them: trained by a plain loop on a small text, saved with a tokenizer."""

import functools
import json

import numpy as np
import torch

KINDS = ("gpt2", "llama", "gpt_neox")
CONTEXT = 32


def config_of(kind: str, vocab: int = 256, width: int = 32):
    import transformers

    shared = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": None}
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * width}
    sizes["max_position_embeddings"] = CONTEXT
    if kind == "gpt2":
        gpt2 = {"n_embd": width, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return transformers.GPT2Config(**shared, **gpt2, **dropout)
    if kind == "llama":
        return transformers.LlamaConfig(**shared, **sizes, num_key_value_heads=2)
    if kind == "opt":
        sizes |= {"ffn_dim": sizes.pop("intermediate_size"), "word_embed_proj_dim": width, "dropout": 0.0}
        return transformers.OPTConfig(**shared, pad_token_id=None, **sizes)
    if kind == "qwen2":
        return transformers.Qwen2Config(**shared, **sizes, num_key_value_heads=1)
    return transformers.GPTNeoXConfig(**shared, **sizes)


@functools.cache
def trained(kind: str, text: str, seed: int, steps: int = 100, width: int = 32, vocab: int = 256):
    """A model after some steps of AdamW on windows of the text's bytes; the same object for the same arguments."""
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(kind, vocab, width))
    data = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min((step + 1) / 20, 1 - step / steps)
        starts = torch.randint(len(data) - CONTEXT, (16, 1))
        batch = data[starts + torch.arange(CONTEXT)]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def trained_by_trainer(kind: str, text: str, seed: int, folder, steps: int = 200):
    """A run of transformers' own Trainer on windows of the text's bytes; its checkpoints are in `folder`."""
    import transformers

    data = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))
    windows = [{"input_ids": w, "labels": w} for w in data[: len(data) // CONTEXT * CONTEXT].view(-1, CONTEXT)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), seed=seed, max_steps=steps, save_steps=steps // 2, per_device_train_batch_size=16,
        learning_rate=1e-2, lr_scheduler_type="linear", warmup_steps=20, report_to="none", use_cpu=True,
        disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.set_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(kind))
    collate = transformers.default_data_collator
    transformers.Trainer(model, arguments, collate, train_dataset=windows, processing_class=byte_tokenizer()).train()
    return folder


def byte_tokenizer():
    import transformers

    from tokenizer import make_tokenizer
    from tools.export import fast_tokenizer

    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast_tokenizer(make_tokenizer("byte", "")))


def save(model, folder, tokenizer=None, steps: int | None = None):
    """As save_pretrained leaves it, or with `steps` as Trainer does: in checkpoint-N, the tokenizer too."""
    where = folder if steps is None else folder / f"checkpoint-{steps}"
    model.save_pretrained(where)
    (tokenizer or byte_tokenizer()).save_pretrained(where)
    if steps is not None:
        (where / "trainer_state.json").write_text(
            json.dumps({"global_step": steps, "log_history": []}), encoding="utf-8"
        )
    return where


def predictions(model, text: str, positions: int):
    """(N, V) float64 probabilities and (N,) targets at the windows of the text, computed window by window."""
    from metrics import evaluation_windows

    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    rows, targets = [], []
    for start in evaluation_windows(len(tokens), CONTEXT, positions):
        window = torch.from_numpy(tokens[start : start + CONTEXT + 1])
        with torch.no_grad():
            rows.append(model(input_ids=window[None, :-1]).logits[0].double().softmax(-1).numpy())
        targets.append(window[1:].numpy())
    return np.concatenate(rows), np.concatenate(targets)
