"""burnish reads and writes UTF-8 in every locale."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_a_setting_with_an_accent_is_printed_in_utf_8_where_the_locale_is_ascii() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "flows", "show", "quickstart", "--set", "name=é"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr.decode()
    assert "é" in (done.stdout + done.stderr).decode()
    assert b"codec" not in done.stderr and b"Traceback" not in done.stderr
