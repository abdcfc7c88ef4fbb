"""Bring the NiiVue bundle that the report carries, with the licences of all that is in it, into the package.

    python tools/vendor_niivue.py            # write src/deformgan/output/report/assets/niivue.*
    python tools/vendor_niivue.py --check    # say whether they are what the npm registry has

Needs npm and the registry. `npm pack` fetches the package without running anything of it; its SHA-512 must be the one
below, and dist/niivue.umd.js the one that `deformgan.output.report.page` accepts. For another version: change `VERSION`
and `INTEGRITY` (`npm view @niivue/niivue@VERSION dist.integrity`) here, run, change what the last lines of the output
say in `deformgan.output.report.page` and NOTICE, run the tests, and open a report.

Licences: each package that the bundle was built of is named in its metafile; its own licence file is taken from the
registry. NiiVue's package has none: package.json must say BSD-2-Clause, and the text is that of its repository
(tools/niivue_licences), as are those of the libraries that numcodecs carries as WebAssembly.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ASSETS = REPOSITORY / "src" / "deformgan" / "output" / "report" / "assets"
TEXTS = Path(__file__).parent / "niivue_licences"
PACKAGE, VERSION = "@niivue/niivue", "0.69.0"
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
BUNDLE, METAFILE = "dist/niivue.umd.js", "dist/metafile-esm.json"
LICENCE = re.compile(r"^licen[cs]e(\.md|\.txt)?$", re.IGNORECASE)
ALLOWED = {"MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause"}
WITHIN_NUMCODECS = ("c-blosc", "lz4", "zstd")
RULE = "-" * 80


class Package:
    """A package of the registry, unpacked in memory.

    Args:
        name: With or without ``@VERSION`` or ``@RANGE``; of a range the newest is taken.
        folder: Where npm puts the archive.
    """

    def __init__(self, name: str, folder: Path) -> None:
        said = subprocess.run(
            ["npm", "pack", name, "--json", "--ignore-scripts"], cwd=folder, capture_output=True, text=True, check=True
        )
        # npm answers a range with all that match, the newest last
        entry = json.loads(said.stdout)[-1]
        self.archive = folder / entry["filename"].replace("@", "").replace("/", "-")
        self.integrity = "sha512-" + base64.b64encode(hashlib.sha512(self.archive.read_bytes()).digest()).decode()
        with tarfile.open(self.archive) as packed:
            self.files = {
                member.name.partition("/")[2]: packed.extractfile(member).read()  # type: ignore[union-attr]
                for member in packed.getmembers()
                if member.isfile()
            }
        self.about = json.loads(self.files["package.json"])

    def title(self, version: str) -> str:
        """Name, version or range, and licence."""
        return f"{self.about['name']} {version} ({self.about['license']})"

    def licence(self) -> str:
        """The text of its licence file."""
        name = next(name for name in self.files if LICENCE.match(name))
        return self.files[name].decode()


def bundled(metafile: bytes) -> list[str]:
    """Names of the packages a bundle was built of, by esbuild's record."""
    found = re.findall(r"node_modules/((?:@[\w.-]+/)?[\w.-]+)/", " ".join(json.loads(metafile)["inputs"]))
    return sorted(set(found))


def licences(niivue: Package, folder: Path) -> str:
    """The text of all of them, one after the other.

    Raises:
        ValueError: One is not among those that may be shipped, or NiiVue's is not what it was.
    """
    if niivue.about["license"] != "BSD-2-Clause":
        raise ValueError(f"{niivue.title(VERSION)}: tools/niivue_licences/niivue.txt is another licence")
    parts = [(niivue.title(VERSION), (TEXTS / "niivue.txt").read_text(encoding="utf-8"))]
    ranges = dict(niivue.about["dependencies"])
    waiting = bundled(niivue.files[METAFILE])
    while waiting:
        # packages of packages come when their own have been read
        name = next(name for name in waiting if name in ranges)
        waiting.remove(name)
        one = Package(f"{name}@{ranges[name]}", folder)
        # of which version of the range it was, the bundle does not say
        title = one.title(ranges[name])
        if one.about["license"] not in ALLOWED:
            raise ValueError(f"{title}: this licence has to be looked at first")
        ranges = {**one.about.get("dependencies", {}), **ranges}
        parts.append((title, one.licence()))
    parts += [
        (f"{name}, in numcodecs as WebAssembly", (TEXTS / f"{name}.txt").read_text("utf-8"))
        for name in WITHIN_NUMCODECS
    ]
    start = f"What is in niivue.umd.js.gz, {BUNDLE} of the npm package {PACKAGE} {VERSION}, unchanged.\n"
    return start + "".join(f"\n{RULE}\n{title}\n\n{text.strip()}\n" for title, text in parts)


def main() -> int:
    """Fetch, verify, write or compare; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        niivue = Package(f"{PACKAGE}@{VERSION}", folder)
        if niivue.integrity != INTEGRITY:
            sys.stderr.write(f"{PACKAGE} {VERSION} is not what it was: {niivue.integrity}\n")
            return 1
        text = licences(niivue, folder)
    bundle = niivue.files[BUNDLE]
    packed, listed = ASSETS / "niivue.umd.js.gz", ASSETS / "niivue.LICENSES.txt"
    if check:
        wrong = [
            path.name
            for path, same in (
                (packed, packed.is_file() and gzip.decompress(packed.read_bytes()) == bundle),
                (listed, listed.is_file() and listed.read_text("utf-8") == text),
            )
            if not same
        ]
        sys.stdout.write(f"differ: {', '.join(wrong)}\n" if wrong else "as in the registry\n")
        return int(bool(wrong))
    packed.write_bytes(gzip.compress(bundle, 9, mtime=0))
    listed.write_text(text, encoding="utf-8")
    sys.stdout.write(f'NIIVUE_VERSION = "{VERSION}"\nNIIVUE_SHA256 = "{hashlib.sha256(bundle).hexdigest()}"\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
