"""URLs of object stores: which ones a lake can have, and the client that reaches the store behind one."""

from __future__ import annotations

import os
import re
from typing import Any, cast

from ..errors import InvalidOption, MissingExtra

SCHEMES = ("s3", "gs", "az")

_OTHER_NAMES = ("s3a", "s3n", "gcs", "abfs", "abfss", "adl", "azure")
"""What other programs call the same stores."""

_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "AZURITE_BLOB_STORAGE_URL",
)

_PLACE = re.compile(
    r"(?P<scheme>[A-Za-z0-9+.-]+)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?:/(?P<prefix>.*))?", re.DOTALL
)


def split_url(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of a lake's URL. Raises InvalidOption for what is none."""
    place = _PLACE.fullmatch(url)
    if place is not None and place["scheme"] in SCHEMES:
        return place["scheme"], place["bucket"], place["prefix"] or ""
    scheme = url.partition("://")[0].lower()
    if scheme == "file":
        raise InvalidOption(f"{url}: give the folder itself, without file://")
    known = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    if scheme in (*SCHEMES, *_OTHER_NAMES):
        raise InvalidOption(f"{url[:300]} is no place for a lake; write {known}")
    raise InvalidOption(
        f"a lake lies in a folder, or at {known}; what {scheme[:50]}:// reaches has no put that losslake knows to fail where "
        "a name is taken, and could give one run to two writers"
    )


def check_prefix(prefix: str) -> None:
    """Raises InvalidOption for a prefix that does not mean itself everywhere."""
    for part in prefix.split("/"):
        # Query engines read partitions off the whole key, and take the others for patterns or parts of a URL.
        if part in (".", "..") or re.search(r"[=*?\[\]{}#\\\x00-\x1f\x7f]", part):
            raise InvalidOption(
                f"{part[:100]!r} in the place of the lake means something else to query engines; choose a prefix without "
                "any of = * ? [ ] { } # and backslash"
            )


def store_at(scheme: str, bucket: str, patience: dict[str, Any]) -> Any:
    """obstore's client of a bucket, with what the environment says of credentials and endpoint.

    Raises InvalidOption for an environment that does not do, MissingExtra without obstore.
    """
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError as error:
        raise MissingExtra(
            "lakes in object stores need the package obstore; 'pip install losslake[object-store]'"
        ) from error
    client: Any = {
        "connect_timeout": "4s",
        "timeout": "5min",
        "read_timeout": "30s",
        "allow_http": plain_http(),
    }
    retries = cast(Any, patience)
    try:
        if scheme == "gs":
            return GCSStore(bucket, client_options=client, retry_config=retries)
        if scheme == "az":
            return AzureStore(bucket, client_options=client, retry_config=retries)
        # One request an object: it is repeated where its answer is lost, the one for many is not.
        config: Any = {"disable_bulk_delete": True}
        return S3Store(bucket, config=config, client_options=client, retry_config=retries)
    except Exception as error:  # of many kinds: a damaged file of credentials, a setting in the environment
        told = str(error).partition("\n")[0]
        if scheme == "az" and "Account must be specified" in told:
            told = "AZURE_STORAGE_ACCOUNT_NAME says whose container it is, and is not set"
        raise InvalidOption(
            f"{scheme}://{bucket}: the settings in the environment do not do: {told}"
        ) from error


def plain_http() -> bool:
    """Whether the endpoint that the user has set is one without encryption, as a server of one's own may be."""
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
