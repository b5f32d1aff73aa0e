"""What is masked before content is logged, and what is left."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoke_proxy.redaction import MARGIN, excerpt, redact

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
STS = "IQoJb3JpZ2luX2VjE" + "aB3/+" * 60 + "=="
MZ = "mz_abcdefghij_" + "Ab3_-" * 8 + "xyz"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to [email]."),
        ("<JÖRG@bücher.example>", "<[email]>"),
        (f"{'a' * 100}@example.org", "[email]"),
        ("card 4111 1111 1111 1111 12/29", "card [card] 12/29"),
        ("4111-1111-1111-1111", "[card]"),
        ("Amex 378282246310005!", "Amex [card]!"),
        ("order 12 5500 0055 5555 5559", "order 12 [card]"),
        ("call +49 30 1234567 now", "call [phone] now"),
        ("call +1 (555) 123-4567", "call [phone]"),
        ("call 0049 30 1234567", "call [phone]"),
        ("call (555) 123-4567.", "call [phone]."),
        ("call 555-123-4567", "call [phone]"),
        ("ruf 030 1234567 an", "ruf [phone] an"),
        ("host 192.168.1.20:8080", "host [ip]:8080"),
        ("at 2001:db8::8a2e:370:7334", "at [ip]"),
        ("at [fe80::1]", "at [[ip]]"),
        ("::ffff:10.0.0.1", "[ip]"),
        ("id AKIAIOSFODNN7EXAMPLE", "id [aws key]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [aws secret]"),
        ("hf_abcdefghijklmnop", "[key]"),
        ("sk-proj-abcdef_123456", "[key]"),
        (f"key {MZ}.", "key [key]."),
        ("ghp_0123456789abcdef", "[key]"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer [token]"),
        ("Authorization: bearer abcdefghijklmnop0123==", "Authorization: bearer [token]"),
        (f"{JWT[:30]}", "[token]"),
        ("postgres://me:hunter2@db/x", "postgres://[password]@db/x"),
        ("2,4111111111111111,12/29", "2,[card],12/29"),
        ("4111.1111.1111.1111", "[card]"),
        ("4111\n1111\r\n1111\n1111", "[card]"),
        (r"number:\n4111\n1111\n1111\n1111\n", r"number:\n[card]\n"),
        (rf"x\n{MZ}\n", r"x\n[key]\n"),
        (f"KEY_{MZ}", "KEY_[key]"),
        (f"?key%3D{MZ}", "?key%3D[key]"),
        (rf"x\n{JWT}", r"x\n[token]"),
        (f"TOKEN_{JWT}", "TOKEN_[token]"),
        (r"x\nAKIAIOSFODNN7EXAMPLE", r"x\n[aws key]"),
        (f"AWS_SESSION_TOKEN={STS}", "AWS_SESSION_TOKEN=[aws token]"),
        (STS[:60], "[aws token]"),
        ("Authorization: Basic dTpw", "Authorization: Basic [password]"),
        ("use Basic amFuZTpodW50ZXIyMg== here", "use Basic [password] here"),
        ("Bearer\tabcdefghijklmnop0123", "Bearer\t[token]"),
        (f"secret: {SECRET}", "secret: [aws secret]"),
        (f"the key is {SECRET}.", "the key is [aws secret]."),
        (f"key is {'0a' * 20}", "key is [aws secret]"),
        (f"AKIAIOSFODNN7EXAMPLE,{SECRET}", "[aws key],[aws secret]"),
        (PEM, "[private key]"),
        (PEM[:45], "[private key]"),
    ],
)
def test_masked(text: str, wanted: str) -> None:
    assert redact(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 42, at 12:30:45 on 2024-01-15.",
        "2024-01-15 10:20:30.123",
        "4111 1111 1111 1112",
        "version 1.2.3, section 1.2.3.4.5",
        "pi is 3.14159265358979323846",
        "999.999.999.999",
        "std::vector<int> a; f(b::c)",
        "a @ b, @decorator, user@localhost",
        "ISBN 978-3-16-148410-0",
        "population 1 234 567",
        "task-force sk-ill hf_x",
        "eyJ is how they begin",
        "x = 10 - 20 + 30",
        "dict[::2], ::",
        "Basic understanding of basic arithmetics",
        "the bearer understands",
        f"commit {'0a' * 20}",
        "/usr/share/modelzone/settings/gateway/co",
        "10.20.30.40.50.60.70.80",
    ],
)
def test_left(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "secret",
    ["jane@example.org", "4111 1111 1111 1111", "+49 30 1234567", "10.20.30.40", "hf_abcdefghijklmnop", MZ, JWT],
)
@given(before=st.text(alphabet="ab \n,(\"'", max_size=8), after=st.text(alphabet=" \n,)\"'", max_size=8))
def test_a_secret_is_found_between_words(secret: str, before: str, after: str) -> None:
    assert secret not in redact(f"{before} {secret}{after}")


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert isinstance(redact(text), str)


@given(position=st.integers(min_value=0, max_value=120))
def test_an_excerpt_never_ends_in_a_part_of_a_secret(position: int) -> None:
    limit = 100
    text = " " * position + MZ + " z" * MARGIN

    assert "mz_" not in excerpt(text, limit=limit)
    assert len(excerpt(text, limit=limit)) <= limit + 1


def test_a_short_text_is_its_own_excerpt() -> None:
    assert excerpt("ä" * 10, limit=10) == "ä" * 10
    assert excerpt("ä" * 11, limit=10) == "ä" * 10 + "…"


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1",
        "1 ",
        "a@",
        "a.",
        "-",
        "1.",
        "0 ",
        "+1 ",
        "ab:",
        ":",
        "(1",
        "eyJa.",
        "-----BEGIN PRIVATE KEY-----",
        "secret key = ",
        "key ",
        "basic AAAA",
        "111.",
        "4111 ",
        "A1a",
    ],
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * (40_000 // len(unit))
    started = time.process_time()
    redact(text)

    assert time.process_time() - started < 2
