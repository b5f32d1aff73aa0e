"""Secrets are not repeated; what only sounds like one is."""

from __future__ import annotations

import json
import time

import pytest

from modelzone.doctor.log import diagnose
from modelzone.doctor.masking import mask

OOM = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("hf_abcdefghijklmnopqrstuvwxyz", "abcdef"),
        ("Bearer x\\nhf_abcdefghijklmnopqrstuvwxyz", "abcdef"),
        ("api_org_abcdefghijklmnopqrstuvwxyzABCDEFGH", "abcdef"),
        ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
        ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
        ("HF_TOKEN=abcdef123456", "abcdef123456"),
        ('"aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"', "wJalrXUtnFEMI"),
        ("https://x.s3.amazonaws.com/y?X-Amz-Signature=0123456789abcdef&X-Amz-Expires=60", "0123456789abcdef"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4", "hbGciOiJIUzI1NiJ9"),
        ("https://user:pa55w0rd@registry.example.com/x", "pa55w0rd"),
        ("docker login -u AWS -p s3cr3t registry.example.com", "s3cr3t"),
        ("docker login -u AWS -p eyJwYXlsb2FkIjoiZmFrZWZha2VmYWtlZmFrZWZha2UifQ==", "wYXlsb2Fk"),
        ("seen eyJwYXlsb2FkIjoiZmFrZWZha2VmYWtlZmFrZWZha2UifQ== there", "wYXlsb2Fk"),
        ("--api-key abcdef-123456", "abcdef-123456"),
        ("['--hf-token', 'abcdef-123456']", "abcdef-123456"),
        ("--password=hunter22", "hunter22"),
        ("github_pat_11ABCDEFG0abcdefghijk_lmnopqrst", "11ABCDEFG0"),
        ("ghp_abcdefghijklmnopqrst", "abcdef"),
        ("glpat-abcdefgh_ijklmnop", "abcdefgh_ijklmnop"),
        ("sk-proj-a_bcdefghijklmnop", "a_bcdefghijklmnop"),
        ('password: "correct horse battery staple"', "horse"),
        ("'secret': 'correct horse battery staple'", "staple"),
    ],
)
def test_secrets_are_not_repeated(text: str, hidden: str) -> None:
    assert hidden not in mask(text)
    assert len(mask(text)) == len(text)
    shown = json.dumps(diagnose([f"{OOM} {text}"]).as_dict(), ensure_ascii=False)
    assert "***" in shown
    assert hidden not in shown


@pytest.mark.parametrize(
    "text",
    [
        "max_input_tokens: 1024000, tokenizer: /opt/ml/model",
        "--max-new-tokens 1000000 --tokenizer /opt/ml/model",
        "arn:aws:secretsmanager:us-east-1:111122223333:secret:HubToken-abc123",
        "store.HubTokenSecretArn = arn:aws:secretsmanager:us-east-1:111122223333:secret:HubToken-abc123",
        "basic authentication, bearer of news, hf_hub",
        "(RequestToken: 258db5a1-23c6-5e4b-4d23-7a469fc2de96, HandlerErrorCode: AlreadyExists)",
        "ClientRequestToken: Console-CreateStack-258db5a1",
        'eos_token_id: 1280011111, "bos_token": "<|begin_of_text|>"',
        "docker login --username AWS --password-stdin 111122223333.dkr.ecr.us-east-1.amazonaws.com",
        "api_server.py:1839 http://127.0.0.1:5000/user@example.com",
    ],
)
def test_ordinary_words_around_secrets_are_kept(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "unit", ["token", "api_key", "--", "login -", "x://", "password: '", "_", "a-", "eyJ", "bearer "]
)
def test_the_time_grows_with_the_text(unit: str) -> None:
    """A window of a log has some 12,000 characters; squares of that would be seconds."""
    started = time.process_time()
    mask(unit * (12_000 // len(unit)))
    assert time.process_time() - started < 1
