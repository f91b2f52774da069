"""tempfile: nameless files, named ones, folders of them; a large file of the working directory, unlinked while open."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pace import report, sha, steps


def main() -> None:
    unlinked = Path("unlinked.bin").open("w+b")  # noqa: SIM115 - open over the whole run
    unlinked.truncate(3_000_000)
    Path("unlinked.bin").unlink()
    with (
        tempfile.TemporaryFile() as nameless,
        tempfile.NamedTemporaryFile() as named,
        tempfile.SpooledTemporaryFile(max_size=1000) as spooled,
        tempfile.TemporaryDirectory() as folder,
    ):
        state = ""
        for step in steps(100):
            state = sha(state, step)
            unlinked.seek(step * 25_000)
            for file in (unlinked, nameless, named, spooled):
                file.write(state.encode())
                file.flush()
            number = len(list(Path(folder).iterdir()))
            Path(folder, f"{number:03}").write_text(state)
            if step % 5 == 4:
                Path(folder, f"{number:03}").unlink()
        results = []
        for file in (unlinked, nameless, named, spooled):
            file.seek(0)
            results.append(sha(file.read()))
        results += [(path.name, path.read_text()) for path in sorted(Path(folder).iterdir())]
        results.append(Path(named.name).stat().st_size)
    report(results)


if __name__ == "__main__":
    main()
