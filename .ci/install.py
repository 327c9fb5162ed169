"""Install packages into an environment: `.venv/bin/python .ci/install.py .venv-bench -r requirements.txt`.

By uv where it is installed, for it takes a third of pip's time and shares the files of two environments;
by pip where uv is missing or fails. uv does not read pip's configuration: what pip is told is handed over.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

# what pip is told → what uv reads; the second: what stands between several values
NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def told_to_pip() -> dict[str, str]:
    """pip's configuration by key: of its files, and above them of its variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in lines:
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        sections.get(section, {})[key] = ast.literal_eval(value)
    return sections["global"] | sections["install"] | sections[":env:"]


def for_uv(told: dict[str, str]) -> dict[str, str]:
    """The same as variables of uv; as in pip, the best version of all indexes is taken."""
    found = {NAMES[key][0]: NAMES[key][1].join(value.split()) for key, value in told.items() if key in NAMES}
    return {"UV_INDEX_STRATEGY": "unsafe-best-match"} | found


def main() -> int:
    folder, *flags = sys.argv[1:]
    python = str(Path(folder) / "bin" / "python")
    uv = Path(sys.executable).parent / "uv"
    if uv.exists():
        command = [str(uv), "pip", "install", "-q", "--python", python, *flags]
        if subprocess.run(command, env=for_uv(told_to_pip()) | os.environ).returncode == 0:
            return 0
        print("uv could not; pip tries", file=sys.stderr)
    pip = [python, "-m", "pip", "install", "-qq", "--no-compile", "--disable-pip-version-check", *flags]
    return subprocess.run(pip).returncode


if __name__ == "__main__":
    sys.exit(main())
