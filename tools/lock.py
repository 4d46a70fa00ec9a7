"""Write the versions that pip chooses today for this Python and system: `make lock`.

They are constraints, not requirements: `make` hands them to pip where Python and system are the
same, which then need not search for versions that fit together. Everywhere else pip searches.
torch and what comes with it are left out: which build fits depends on the machine.
"""

import json
import re
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

METADATA = itemgetter("metadata")
LEFT_OUT = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*|wsi-umedpt|napari-wsi-umedpt)$")


def main() -> None:
    """Resolve what ``sys.argv`` names, as words for ``pip install``, and write one file."""
    target, *wanted = sys.argv[1:]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = json.loads(subprocess.run([*command, *wanted], check=True, stdout=subprocess.PIPE).stdout)
    chosen = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in report["install"]
    }
    lines = [f"{name}=={version}" for name, version in sorted(chosen.items()) if not LEFT_OUT.match(name)]
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).write_text("\n".join(["# Made by `make lock`.", *lines, ""]), encoding="utf-8")
    sys.stdout.write(f"{len(lines)} versions in {target}\n")


if __name__ == "__main__":
    main()
