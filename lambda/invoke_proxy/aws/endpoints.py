"""Where AWS's services are: by partition and region, or where the SDKs' environment variables say.

Source of the suffixes: botocore's ``partitions.json`` (1.43.106); a contract test compares the addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

__all__ = ["Address", "Service", "address_of", "bucket_address"]

Service = Literal["sagemaker-runtime", "ssm", "dynamodb", "s3"]

# Of regions' names; whatever is none of these is in the partition "aws" or "aws-us-gov", which share a suffix.
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
}
_HOSTS: Mapping[Service, str] = {
    "sagemaker-runtime": "runtime.sagemaker",
    "ssm": "ssm",
    "dynamodb": "dynamodb",
    "s3": "s3",
}
_PORTS = {"https": 443, "http": 80}
_LONGEST_LABEL = 63


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server, and the path under which its service begins (empty, or without a slash at its end)."""

    host: str
    port: int
    tls: bool
    base_path: str = ""

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port where it is the scheme's own."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS["https" if self.tls else "http"] else f"{name}:{self.port}"


def address_of(service: Service, *, region: str, environ: Mapping[str, str]) -> Address:
    """Return the address of a service.

    ``AWS_ENDPOINT_URL_<SERVICE>`` comes before ``AWS_ENDPOINT_URL``, which comes before AWS's own, as in the SDKs.

    Raises
    ------
    ValueError
        When such a variable holds no URL.
    """
    custom = _custom_address(service, environ)
    if custom is not None:
        return custom
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if region.startswith(start)), "amazonaws.com")
    return Address(host=f"{_HOSTS[service]}.{region}.{suffix}", port=_PORTS["https"], tls=True)


def bucket_address(bucket: str, *, region: str, environ: Mapping[str, str]) -> Address:
    """Return the address of a bucket; the path after it is the object's key.

    On AWS the bucket is part of the host's name, unless it holds a dot, which no certificate covers; with a custom
    endpoint it is the first segment of the path.
    """
    address = address_of("s3", region=region, environ=environ)
    if _custom_address("s3", environ) is None and "." not in bucket and len(bucket) <= _LONGEST_LABEL:
        return Address(host=f"{bucket}.{address.host}", port=address.port, tls=address.tls)
    base_path = f"{address.base_path}/{quote(bucket, safe='')}"
    return Address(host=address.host, port=address.port, tls=address.tls, base_path=base_path)


def _custom_address(service: Service, environ: Mapping[str, str]) -> Address | None:
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    own = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"
    for name in (own, "AWS_ENDPOINT_URL"):
        url = environ.get(name)
        if url:
            return _parsed(name, url)
    return None


def _parsed(name: str, url: str) -> Address:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in _PORTS or not parts.hostname or port == -1 or parts.query or parts.fragment:
        message = f"{name} must be a URL like https://host:port, not '{url}'"
        raise ValueError(message)
    tls = parts.scheme == "https"
    return Address(host=parts.hostname, port=port or _PORTS[parts.scheme], tls=tls, base_path=parts.path.rstrip("/"))
