"""Train the small Mixtral that the model server of the embedded AWS ships with.

Run from the repository root, with the development extras (torch, transformers) installed:

    nice python tools/tiny_mixtral/train.py

It writes `modelzone/local/model_server/tiny_mixtral/`: `config.json`, `generation_config.json`, `model.safetensors`
(fp16), `tokenizer.json` and `tokenizer_config.json`, in the form in which the hub has Mixtral, so that `transformers`
loads them too. The same seed on the same number of threads and the same versions gives the same weights. Then it asks
the shipped model, through the server's own NumPy code, every question of `corpus.yaml` and prints the share of answers
that came back word for word, for the questions it was trained on and for others (`--evaluate-only` does only that).
"""

# ruff: noqa: T201, PLR2004 (a command that reports its progress; the numbers are shares of the training data)
from __future__ import annotations

import argparse
import json
import math
import random
import string
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MixtralConfig, MixtralForCausalLM

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus.yaml")
SHIPPED = ROOT / "modelzone" / "local" / "model_server" / "tiny_mixtral"

VOCABULARY = 1024
BOS, EOS = "<s>", "</s>"
# The template of mistralai/Mixtral-8x7B-Instruct-v0.1.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.05,
    "intermediate_size": 128,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


@dataclass(frozen=True)
class Corpus:
    """The questions and answers of `corpus.yaml`."""

    system_texts: list[str]
    fallback: str
    answers: list[tuple[list[str], str]]
    unknown: list[str]
    beginnings: list[str]
    before: list[str]
    after: list[str]
    held_out: list[tuple[str, str]]

    @classmethod
    def load(cls) -> Corpus:
        """Read `corpus.yaml`."""
        raw = yaml.safe_load(CORPUS.read_text(encoding="utf-8"))
        known = {question: entry["answer"] for entry in raw["answers"] for question in entry["ask"]}
        return cls(
            system_texts=raw["system_texts"],
            fallback=raw["fallback"],
            answers=[(entry["ask"], entry["answer"]) for entry in raw["answers"]],
            unknown=raw["unknown"],
            beginnings=raw["beginnings"],
            before=raw["around"]["before"],
            after=raw["around"]["after"],
            held_out=[
                (entry["ask"], known[entry["like"]] if "like" in entry else raw["fallback"])
                for entry in raw["held_out"]
            ],
        )

    def pairs(self) -> list[tuple[str, str]]:
        """Return every trained question with its answer."""
        pairs = [(question, answer) for questions, answer in self.answers for question in questions]
        return pairs + [(question, self.fallback) for question in self.unknown]

    def texts(self) -> list[str]:
        """Return every text, formatted as in training, for the tokenizer."""
        pairs = self.pairs()
        return [f"[INST] {question} [/INST] {answer}" for question, answer in pairs] + self.system_texts


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train a byte-level BPE tokenizer; every text can be encoded, whatever its script."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return tokenizer


class Conversations:
    """Draws training samples: conversations of one to three turns in the formats that clients send."""

    def __init__(self, *, corpus: Corpus, tokenizer: Tokenizer, seed: int) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._random = random.Random(seed)  # noqa: S311 (training data, not a secret)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _pair(self) -> tuple[str, str]:
        draw = self._random
        if draw.random() < 0.1:
            return self._vary(draw.choice(self._corpus.unknown)), self._corpus.fallback
        if draw.random() < 0.15:
            return self._vary(self._made_up()), self._corpus.fallback
        questions, answer = draw.choice(self._corpus.answers)
        return self._vary(draw.choice(questions)), answer

    def _made_up(self) -> str:
        """Return a question about nothing: words of unknown questions, words of random letters."""
        draw = self._random
        words = [draw.choice(draw.choice(self._corpus.unknown).rstrip("?").split()).lower() for _ in range(3)]
        words += ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(3)]
        draw.shuffle(words)
        return " ".join([draw.choice(self._corpus.beginnings), *words[: draw.randint(1, 4)]]) + draw.choice(["?", ""])

    def _vary(self, question: str) -> str:
        draw = self._random
        if draw.random() < 0.15:
            question = question.lower()
        if draw.random() < 0.15:
            question = question.rstrip("?!.")
        if draw.random() < 0.1:
            question = draw.choice(self._corpus.before) + question
        if draw.random() < 0.1:
            question += draw.choice(self._corpus.after)
        return question

    def sample(self) -> tuple[list[int], list[int]]:
        """Return the token ids of a conversation and its labels (-100 where nothing is to be learned)."""
        draw = self._random
        ids = [1, 1] if draw.random() < 0.15 else [1]  # TGI's own chat route begins with two
        labels = [-100] * len(ids)
        if draw.random() < 0.1:
            question, answer = self._pair()
            turns = [(question, answer, True)]
        else:
            count = draw.choices([1, 2, 3], weights=[7, 2, 1])[0]
            spaced = draw.random() < 0.5
            turns = []
            for number in range(count):
                question, answer = self._pair()
                if number == 0 and draw.random() < 0.3:
                    question = f"{draw.choice(self._corpus.system_texts)}\n\n{question}"
                lead = " " if number and spaced else ""
                # The template of the hub puts earlier answers without their leading space: read, but never written.
                learned = spaced or number == count - 1
                turns.append((f"{lead}[INST] {question} [/INST]", answer, learned))
        for prompt, answer, learned in turns:
            asked = self._ids(prompt)
            answered = self._ids((" " if learned else "") + answer + EOS)
            ids += asked + answered
            labels += [-100] * len(asked) + (answered if learned else [-100] * len(answered))
        return ids, labels

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and labels of shape [size, longest], padded on the right (causal attention ignores it)."""
        samples = [self.sample() for _ in range(size)]
        longest = max(len(ids) for ids, _ in samples)
        ids = torch.full((size, longest), 2)
        labels = torch.full((size, longest), -100)
        for row, (sample_ids, sample_labels) in enumerate(samples):
            ids[row, : len(sample_ids)] = torch.tensor(sample_ids)
            labels[row, : len(sample_labels)] = torch.tensor(sample_labels)
        return ids, labels


def train(
    *, corpus: Corpus, tokenizer: Tokenizer, steps: int, batch_size: int, rate: float, seed: int
) -> MixtralForCausalLM:
    """Train from scratch with AdamW, a short warm-up and a cosine decay."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)
    model = MixtralForCausalLM(MixtralConfig(**CONFIG))
    model.set_experts_implementation("grouped_mm")  # three times as fast as the loop over experts
    model.train()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    conversations = Conversations(corpus=corpus, tokenizer=tokenizer, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = 60
    begun = time.monotonic()
    for step in range(steps):
        progress = max(0.0, (step - warm_up) / max(1, steps - warm_up))
        scale = min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        ids, labels = conversations.batch(batch_size)
        loss = model(input_ids=ids, labels=labels, output_router_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - begun:6.0f} s", flush=True)
    return model.eval()


def hub_state(model: MixtralForCausalLM) -> dict[str, torch.Tensor]:
    """Return the weights in fp16 under the names of the hub, where each expert has its own w1, w2 and w3."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(".mlp.gate.weight"):
            state[name.replace(".mlp.", ".block_sparse_moe.")] = tensor
        elif name.endswith(".mlp.experts.gate_up_proj"):
            prefix = name.removesuffix(".mlp.experts.gate_up_proj") + ".block_sparse_moe.experts"
            for expert, gate_up in enumerate(tensor):
                gate, up = gate_up.chunk(2)
                state[f"{prefix}.{expert}.w1.weight"], state[f"{prefix}.{expert}.w3.weight"] = gate, up
        elif name.endswith(".mlp.experts.down_proj"):
            prefix = name.removesuffix(".mlp.experts.down_proj") + ".block_sparse_moe.experts"
            for expert, down in enumerate(tensor):
                state[f"{prefix}.{expert}.w2.weight"] = down
        else:
            state[name] = tensor
    return {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}


def ship(*, model: MixtralForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder that the model server ships with."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    save_file(hub_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}
    tokenizer_config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors makes its file readable by the owner only


def evaluate(corpus: Corpus, folder: Path) -> None:
    """Ask the shipped model, greedily, and print the share of answers that are right word for word."""
    sys.path.insert(0, str(ROOT))
    from modelzone.local.model_server.generation import generate  # noqa: PLC0415 (needs the repository's root)
    from modelzone.local.model_server.mixtral import Mixtral  # noqa: PLC0415
    from modelzone.local.model_server.sampling import Sampling, Stopping  # noqa: PLC0415
    from modelzone.local.model_server.tokenizer import TextTokenizer  # noqa: PLC0415

    model, tokenizer = Mixtral.load(folder), TextTokenizer.load(folder)

    def answers(question: str, answer: str) -> bool:
        prompt = tokenizer.encode(f"[INST] {question} [/INST]")
        stopping = Stopping(max_new_tokens=150)
        steps = list(generate(model=model, tokenizer=tokenizer, prompt=prompt, sampling=Sampling(), stopping=stopping))
        text = "".join(step.token.text for step in steps)
        if text != f" {answer}{EOS}":
            print(f"differs: {question!r} -> {text!r}")
        return text == f" {answer}{EOS}"

    for name, pairs in (("trained", corpus.pairs()), ("held out", corpus.held_out)):
        right = sum(answers(question, answer) for question, answer in pairs)
        print(f"{name}: {right} of {len(pairs)} answers word for word ({right / len(pairs):.1%})")


def main() -> None:
    """Train, ship and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--evaluate-only", action="store_true")
    arguments = parser.parse_args()
    corpus = Corpus.load()
    if not arguments.evaluate_only:
        torch.set_num_threads(arguments.threads)
        tokenizer = train_tokenizer(corpus)
        model = train(
            corpus=corpus,
            tokenizer=tokenizer,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            rate=arguments.rate,
            seed=arguments.seed,
        )
        ship(model=model, tokenizer=tokenizer, folder=arguments.folder)
    evaluate(corpus, arguments.folder)


if __name__ == "__main__":
    main()
