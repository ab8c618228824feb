"""A file, compressed, in pieces of at most 15 MiB, and back: pieces.py split FILE FOLDER | join FOLDER FILE

What comes back from a lent machine is limited file by file. A folder without all of its pieces is refused.
"""

import lzma
import sys
from pathlib import Path

PIECE = 15 << 20


def split(file, folder):
    # More effort gains little: kernels are compressed already.
    data = lzma.compress(Path(file).read_bytes(), preset=1)
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(pieces, 1):
        (Path(folder) / f"{Path(file).name}.{number}-of-{len(pieces)}").write_bytes(piece)


def join(folder, file):
    pieces = sorted(Path(folder).glob("*-of-*"), key=lambda path: int(path.suffix[1:].split("-")[0]))
    if not pieces or len(pieces) != int(pieces[0].name.rsplit("-", 1)[1]):
        sys.exit(f"{folder} holds {len(pieces)} pieces, not all of a file")
    part = Path(f"{file}.part")
    part.write_bytes(lzma.decompress(b"".join(path.read_bytes() for path in pieces)))
    part.replace(file)


if __name__ == "__main__":
    {"split": split, "join": join}[sys.argv[1]](*sys.argv[2:])
