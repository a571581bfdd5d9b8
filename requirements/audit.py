"""Ask pip-audit for known vulnerabilities of the lock files: ``make audit``.

pip-audit ends well where its service knows none of the packages, or answers nothing at all, since it then skips them.
Here that has an exit code of its own: 0 all packages asked about and none vulnerable, 1 vulnerabilities found,
3 some or all packages not audited.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PIP_AUDIT = Path(sys.executable).parent / "pip-audit"
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3


def audit(lock: Path) -> int:
    """Audit one lock file, print the result and return the exit code."""
    command = [str(PIP_AUDIT), "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{lock.name}: NOT AUDITED, pip-audit gave no answer: {reason[:300]}")
        return NOT_AUDITED
    skipped = [package for package in packages if "skip_reason" in package]
    found = [(package, fault) for package in packages for fault in package.get("vulns", [])]
    for package, fault in found:
        fixed = ", ".join(fault.get("fix_versions", [])) or "no fixed version"
        print(f"{lock.name}: {package['name']} {package['version']}: {fault['id']} ({fixed})")
    print(
        f"{lock.name}: {len(packages) - len(skipped)} of {len(packages)} packages audited, {len(found)} vulnerabilities"
    )
    if skipped or not packages:
        names = ", ".join(package["name"] for package in skipped[:3]) + (", …" if len(skipped) > 3 else "")
        print(f"{lock.name}: {len(skipped)} NOT AUDITED, unknown to the service, or it is out of reach: {names}")
    return VULNERABLE if found else NOT_AUDITED if skipped or not packages else CLEAN


def main() -> int:
    """Audit both lock files."""
    codes = [audit(FOLDER / name) for name in ("lock.txt", "tools.txt")]
    return VULNERABLE if VULNERABLE in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
