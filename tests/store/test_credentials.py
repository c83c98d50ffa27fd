"""Secrets in addresses are refused, and shown and written nowhere."""

from __future__ import annotations

import traceback
from pathlib import Path
from string import ascii_letters, digits

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.config import GateSettings, make_config
from coevo_ray.config.base import read_settings
from coevo_ray.errors import UsageError
from coevo_ray.store.credentials import refuse_secrets, why_secret
from coevo_ray.store.location import Location
from tests.command_line import Command

SECRET = "hunter2hunter2"
WITH_SECRETS = [
    f"s3://AKIA:{SECRET}@bucket/pool",
    f"s3://AKIA:{SECRET}/with/strokes@bucket/pool",
    f"s3://AKIA:123/{SECRET}@bucket/pool",
    f"s3://AKIA%3A{SECRET}%40bucket/pool",
    f"s3://{SECRET}@bucket/pool",
    f"s3://AKIA:{SECRET}",
    f"S3://AKIA:{SECRET}@bucket",
    f"gs://{SECRET}@bucket/pool",
    f"https://eva:{SECRET}@example.org/x",
    f"https://{SECRET}@example.org/x",
    f"https://eva:{SECRET}/a@example.org/x",
    f"hdfs://eva:{SECRET}@host:8020/x",
    f"abfs://account:{SECRET}@container/x",
    f"s3://bucket/pool?access_key=AKIA&secret_key={SECRET}",
    f"s3://bucket/pool?region=x&session_token={SECRET}",
    f"s3://bucket/pool?%73ecret_key={SECRET}",
    f"s3://bucket/pool#?secret_key={SECRET}",
    f"https://example.org/x?X-Amz-Signature={SECRET}",
    f"https://account.blob.core.windows.net/x?sv=1&sig={SECRET}",
]
WITHOUT = [
    "/data/pool",
    "relative/a@b:c",
    "s3://bucket/pool?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9000",
    "s3://bucket/user@example.org/pool",
    "gs://anonymous@bucket/pool",
    "gs://bucket/pool?project_id=x&retry_limit_seconds=3",
    "hdfs://eva@host:8020/x",
    "abfss://container@account.dfs.core.windows.net/x",
    "http://127.0.0.1:8080/x",
    "http://[::1]:8080/x",
    "https://images.example.org/{key}?key={key}&token={row_id}",
    "file:///data/a:b@c",
]


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_an_address_with_a_secret_is_refused_without_showing_it(uri: str) -> None:
    for taken in (Location.parse, refuse_secrets):
        with pytest.raises(UsageError) as caught:
            taken(uri)
        told = "".join(traceback.format_exception(caught.value))
        assert SECRET not in str(caught.value) and SECRET not in told and "AKIA" not in told
        assert "AWS_ACCESS_KEY_ID" in caught.value.remedy and "AWS_PROFILE" in caught.value.remedy


@pytest.mark.parametrize("uri", WITHOUT)
def test_an_address_without_one_is_taken(uri: str) -> None:
    assert why_secret(uri) is None


@settings(max_examples=300, derandomize=True)
@given(st.text(f"{ascii_letters}{digits}/+=", min_size=1, max_size=40))
def test_no_key_that_stores_give_gets_by(secret: str) -> None:
    assert why_secret(f"s3://AKIA:{secret}@bucket/pool") is not None
    assert why_secret(f"s3://bucket/pool?secret_key={secret}") is not None


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_settings_refuse_it_too(uri: str, tmp_path: Path) -> None:
    for annotator in (
        {"kind": "file_drop", "folder": uri},
        {"kind": "label_studio", "url": uri, "project": "title"},
        {"kind": "label_studio", "url": "http://x.org", "project": "title", "url_template": uri + "{key}"},
    ):
        with pytest.raises(UsageError) as caught:
            make_config(GateSettings, {"annotator": annotator}, "gate")
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    file = tmp_path / "run.yaml"
    file.write_text(f"out: {uri}\n  pool: [")
    with pytest.raises(UsageError, match=r"is not YAML: .*line \d") as caught:
        read_settings(file)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "{}", "--out", "pool"],
        ["ingest", "--source", "{}", "--out", "pool"],
        ["encode", "--pool={}", "--out", "x"],
        ["gate", "status", "--gate", "{}"],
        ["nothing", "{}"],
        ["doctor", "--artifact", "{}", "{}"],
    ],
)
def test_no_command_repeats_it(arguments: list[str], tmp_path: Path, coevo_ray: Command) -> None:
    for uri in WITH_SECRETS[:3] + WITH_SECRETS[13:14]:
        result = coevo_ray(*(argument.format(uri) for argument in arguments))
        assert result.returncode == 2 and "remedy: leave it out of the address" in result.stderr
        assert SECRET not in result.stdout + result.stderr


def test_one_stroke_is_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (f"s3:/AKIA:{SECRET}@bucket", f"s3:AKIA:{SECRET}", f"https:/{SECRET}"):
        with pytest.raises(UsageError, match="a path begins with") as caught:
            Location.parse(text)
        assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="is not a valid URI"):
        Location.parse("s3://[x")
