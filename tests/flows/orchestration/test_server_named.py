"""Whether Prefect's settings may name a server: a temporary one starts without asking Prefect where none can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.orchestration import server

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Prefect home without a profile. The working folder beside it is empty, and no variable names a server."""
    for name in server.NAMING:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(home))
    monkeypatch.chdir(work)
    return home


def test_nothing_names_a_server(home: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "pyproject.toml").write_text('[tool.prefect]\nlogging.to_api.when_missing_flow = "ignore"\n')
    (tmp_path / "work" / ".env").write_text("PREFECT_HOME=/tmp\n")
    assert not server._may_be_named()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/profiles.toml", 'active = "own"\n[profiles.own]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'),
        ("work/.env", "prefect_api_url=http://127.0.0.1:9/api\n"),
        ("work/.env", "PREFECT_PROFILES_PATH=/tmp/profiles.toml\n"),
        ("work/prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n'),
        ("work/pyproject.toml", '[tool.prefect]\napi.url = "http://127.0.0.1:9/api"\n'),
        ("work/pyproject.toml", '[tool.prefect]\nprofiles_path = "/tmp/profiles.toml"\n'),
    ],
)
def test_a_file_may_name_a_server(home: Path, tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert server._may_be_named()


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "prefect_api_url", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"])
def test_a_variable_may_name_a_server(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "local")
    assert server._may_be_named()
